"""The command line of `swin-serve`: help in words, and a sentence for each wrong value."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli.arguments import metavar
from app.cli.main import main
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


@pytest.mark.parametrize("command", [[], ["run"], ["check"]])
def test_help_is_in_words(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """No type of Python, and no path of this machine."""
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    text = capsys.readouterr().out

    assert OF_PYTHON.findall(text) == []
    assert "default: )" not in text
    assert "--root-path N" not in text
    assert str(ROOT) not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_the_export_is_in_words(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Likewise."""
    with pytest.raises(SystemExit):
        export([command, "--help"])
    text = capsys.readouterr().out

    assert re.findall(r"\b(SecretStr|NoneType|PosixPath|tuple)\b|\(\)", text) == []
    assert str(ROOT) not in text


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_option_has_a_word_for_its_value(name: str) -> None:
    """Capitals, or the choices."""
    assert re.fullmatch(r"[A-Z]+(,…)?|[a-z:|\[\]N,…]+", metavar(name))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--port abc", "--port 'abc': not a whole number; give a whole number from 0 to 65535"),
        ("--port 99999", "--port '99999': too large; give a whole number from 0 to 65535"),
        ("--max-batch 1.5", "--max-batch '1.5': not a whole number; give a whole number above 0 and up to 1024"),
        ("--max-megapixels 0", "--max-megapixels '0': too small; give a number above 0 and up to 89"),
        ("--drain-delay inf", "--drain-delay 'inf': not a finite number; give a number from 0 to 3600"),
        ("--health-open maybe", "--health-open 'maybe': neither true nor false; give true or false"),
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
    """What it is of, the value, what is wrong, and what to do."""
    code = main(["run", *arguments.split()])

    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"swin-serve: {sentence}")
    assert not re.search("Input should|Value error|pydantic", lines[0])


def test_a_wrong_variable_is_called_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not as an option."""
    monkeypatch.setenv("SWIN_MAX_BATCH", "zero")

    assert main(["run"]) == 2
    assert capsys.readouterr().err.startswith("swin-serve: SWIN_MAX_BATCH 'zero': not a whole number; give")


@pytest.mark.parametrize("arguments", [["--api-keys", HIDDEN], [f"--keys={HIDDEN}"], ["--port", "1", HIDDEN]])
def test_a_secret_is_never_shown(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a key that is no key, nor what was given to an option that does not exist."""
    try:
        code = main(["run", *arguments])
    except SystemExit as exit_:
        code = int(str(exit_.code))

    text = capsys.readouterr().err
    assert (code, len(text.splitlines())) == (2, 1)
    assert "secret" not in text


@pytest.mark.parametrize("cpus", [1, 64])
def test_without_linux_there_is_one_process(monkeypatch: pytest.MonkeyPatch, cpus: int) -> None:
    """However many CPUs there are, unless more processes are asked for."""
    monkeypatch.setattr(shared_memory, "are_available", lambda: False)
    monkeypatch.setattr("app.cli.run.available_cpus", lambda: cpus)

    assert (http_worker_count(None), http_worker_count(0)) == (0, 0)
    with pytest.raises(StartError, match=r"http_workers=2 needs Linux .* set http_workers to 0"):
        http_worker_count(2)


def test_http_workers_without_what_they_need_are_one_sentence() -> None:
    """As on a system that has no anonymous files in memory."""
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
