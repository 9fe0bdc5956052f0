"""The command line of `swin-serve`: help in words and groups, and a sentence for each wrong value."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli.arguments import GROUPS, metavar
from app.cli.main import _parser, main
from app.cli.run import http_worker_count
from app.errors import StartError
from app.processes import shared_memory
from app.settings import Settings
from model_export.cli.main import COMMANDS
from model_export.cli.main import main as export

ROOT = Path(__file__).parents[2]
OF_PYTHON = re.compile(
    r"\b(str|int|float|bool|tuple|list|Path|SecretStr|NoneType|None|True|False)\b|\[\w+,\.\.\.\]|\(\)"
)
HIDDEN = "a secret"


@pytest.mark.parametrize("command", [[], ["run"], ["check"], ["classify"]])
def test_help_is_in_words(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The help contains no Python type and no path of this machine."""
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    text = capsys.readouterr().out

    assert OF_PYTHON.findall(text) == []
    assert "default: )" not in text
    assert "--root-path N" not in text
    assert str(ROOT) not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_the_export_is_in_words(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of `swin-export` contains no Python type and no path of this machine."""
    with pytest.raises(SystemExit):
        export([command, "--help"])
    text = capsys.readouterr().out

    assert re.findall(r"\b(SecretStr|NoneType|PosixPath|tuple)\b|\(\)", text) == []
    assert str(ROOT) not in text


SWITCHES = [name for name, field in Settings.model_fields.items() if isinstance(field.default, bool)]


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name not in SWITCHES])
def test_every_option_has_a_word_for_its_value(name: str) -> None:
    """The word is in capitals, or lists the choices."""
    assert re.fullmatch(r"[A-Z]+(,…)?|[a-z|]+", metavar(name))


def test_every_setting_is_in_one_group() -> None:
    """The groups of the help contain each setting once."""
    assert sorted(Settings.model_fields) == sorted(name for names in GROUPS.values() for name in names)


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("is_on", [True, False])
def test_a_switch_is_a_flag(name: str, is_on: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    """`--name` turns it on and `--no-name` turns it off."""
    parser, sources = _parser()
    parsed = parser.parse_args(["run", f"--{'' if is_on else 'no-'}{name.replace('_', '-')}"])

    settings = Settings(_cli_settings_source=sources["run"](parsed_args=parsed))
    assert getattr(settings, name) is is_on


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--port abc", "--port 'abc': not a whole number; give a whole number from 0 to 65535"),
        ("--port 99999", "--port '99999': too large; give a whole number from 0 to 65535"),
        ("--max-batch 1.5", "--max-batch '1.5': not a whole number; give a whole number above 0 and up to 1024"),
        ("--max-megapixels 0", "--max-megapixels '0': too small; give a number above 0 and up to 89"),
        ("--drain-delay inf", "--drain-delay 'inf': not a finite number; give a number from 0 to 3600"),
        ("--log-format xml", "--log-format 'xml': not one of the choices; give text or json"),
        ("--formats jpg", "--formats 'jpg': not one of the choices; give one or more of jpeg, png"),
        ("--formats=", "--formats '': empty; give one or more of jpeg"),
        ("--host=", "--host '': empty; give an address of this machine"),
        ("--device gpu", "--device: gpu is no device: cpu, cuda"),
        ("--trusted-proxies 10.0.0.0/8,proxy", "--trusted-proxies 'proxy': not an IP address or network; give"),
        ("--cors-origins https://A.org", "--cors-origins 'https://A.org': an origin is scheme://host"),
        (
            "--max-client-batch-size 300",
            "max_client_batch_size is 300, more than max_queue_size, 256; lower the one or raise the other",
        ),
    ],
)
def test_a_wrong_value_is_one_sentence(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence names the option, the value, what is wrong, and what to do."""
    code = main(["run", *arguments.split()])

    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"swin-serve: {sentence}")
    assert not re.search("Input should|Value error|pydantic", lines[0])


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("SWIN_MAX_BATCH", "zero", "SWIN_MAX_BATCH 'zero': not a whole number; give"),
        ("SWIN_HEALTH_OPEN", "maybe", "SWIN_HEALTH_OPEN 'maybe': neither true nor false; give true or false"),
    ],
)
def test_a_wrong_variable_is_named(
    variable: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence names the variable and not an option."""
    monkeypatch.setenv(variable, value)

    assert main(["run"]) == 2
    assert capsys.readouterr().err.startswith(f"swin-serve: {sentence}")


@pytest.mark.parametrize("arguments", [["--api-keys", HIDDEN], [f"--keys={HIDDEN}"], ["--port", "1", HIDDEN]])
def test_a_secret_is_never_shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No message shows an invalid key, or the value of an unknown option."""
    try:
        code = main(["run", *arguments])
    except SystemExit as exit_:
        code = int(str(exit_.code))

    text = capsys.readouterr().err
    assert (code, len(text.splitlines())) == (2, 1)
    assert "secret" not in text


@pytest.mark.parametrize("cpus", [1, 64])
def test_without_linux_there_is_one_process(monkeypatch: pytest.MonkeyPatch, cpus: int) -> None:
    """The number of CPUs does not matter. A request for more processes is refused."""
    monkeypatch.setattr(shared_memory, "are_available", lambda: False)
    monkeypatch.setattr("app.cli.run.available_cpus", lambda: cpus)

    assert (http_worker_count(None), http_worker_count(0)) == (0, 0)
    with pytest.raises(StartError, match=r"http_workers=2 needs Linux .* set http_workers to 0"):
        http_worker_count(2)


def test_http_workers_without_what_they_need_are_one_sentence() -> None:
    """A system without anonymous files in memory refuses HTTP workers with one sentence."""
    code = "import os, sys; del os.memfd_create; from app.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", code, "run", "--http-workers", "2", "--port", "0"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("swin-serve: http_workers=2 needs Linux")
    assert len(done.stderr.splitlines()) == 1
