"""`completion` of both programs: the scripts, and what the shells complete by them."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from app.cli.main import main as serve
from app.shell_completion import SHELLS
from model_export.cli.main import main as export

PROGRAMS: dict[str, Callable[[Sequence[str]], int]] = {"swin-serve": serve, "swin-export": export}

# Sources the script $1, completes the words after it at the last one, and prints each suggestion in a line.
BASH = """\
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
name=$(complete -p "$1"); name=${name##*-F }; name=${name%% *}
"$name" "$1" "${@: -1}" "${COMP_WORDS[COMP_CWORD - 1]}" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = "source $argv[1]; complete -C $argv[2]"

# Words of a command line, and suggestions for the last one that have to be there.
CASES = [
    ("swin-serve sc", {"score"}),
    ("swin-serve tu", {"tune"}),
    ("swin-serve tune --allow", {"--allow-fast-decode"}),
    ("swin-serve c", {"check", "classify", "completion"}),
    ("swin-serve run --dev", {"--device"}),
    ("swin-serve run --decode ", {"exact", "fast"}),
    ("swin-serve run --log-level w", {"warning"}),
    ("swin-serve completion ", set(SHELLS)),
    ("swin-export ver", {"verify"}),
    ("swin-export build --precision fp", {"fp16", "fp32"}),
]


def script_of(program: str, shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the script that the program prints."""
    assert PROGRAMS[program](["completion", shell]) == 0
    return capsys.readouterr().out


def run_in(shell: str, *arguments: str, cwd: Path) -> str:
    """Run a shell, or skip the test if it is not installed. Return its output."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([path, *arguments], cwd=cwd, capture_output=True, text=True, check=True)  # noqa: S603 (a shell)
    assert done.stderr == ""
    return done.stdout


def suggestions(shell: str, line: str, script: str, folder: Path) -> set[str]:
    """Return what a shell suggests for the last word of a line."""
    file = folder / "script"
    file.write_text(script)
    if shell == "bash":
        found = run_in("bash", "--norc", "-c", BASH, "bash", str(file), *line.split(" "), cwd=folder)
    else:
        found = run_in("fish", "--no-config", "-c", FISH, str(file), line, cwd=folder)
    return {each.partition("\t")[0].strip() for each in found.splitlines()} - {""}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_shell_reads_the_script(program: str, shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shell finds no error in the script, which names each command."""
    script = script_of(program, shell, capsys)
    assert program in script
    assert "completion" in script
    (tmp_path / "script").write_text(script)

    assert run_in(shell, "-n", "script", cwd=tmp_path) == ""


@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(("line", "expected"), CASES)
def test_a_shell_completes(
    shell: str, line: str, expected: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commands, options and the choices of an option are completed, and nothing else is suggested."""
    script = script_of(line.partition(" ")[0], shell, capsys)

    assert suggestions(shell, line, script, tmp_path) == expected


@pytest.mark.parametrize(
    ("line", "is_folder_only"),
    [
        ("swin-serve run --bundle my", True),
        ("swin-serve classify my", False),
        ("swin-serve score my", False),
        ("swin-serve tune --images my", False),
        ("swin-serve tune --output my", False),
        ("swin-export verify my", True),
        ("swin-export build --labels my", False),
    ],
)
def test_paths_are_completed(
    line: str, *, is_folder_only: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value that is a folder is completed by folders, and one that is a file by files and folders."""
    (tmp_path / "my-bundle").mkdir()
    (tmp_path / "my-photo.jpg").touch()
    script = script_of(line.partition(" ")[0], "bash", capsys)

    expected = {"my-bundle"} if is_folder_only else {"my-bundle", "my-photo.jpg"}
    assert suggestions("bash", line, script, tmp_path) == expected


def test_a_suggestion_has_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """A command has its summary, and an option the first sentence of its help, without its default."""
    script = script_of("swin-serve", "fish", capsys)

    assert "classify many images without a service, and write a table" in script
    assert "A row has the columns" not in script

    assert "-d 'Port to listen on'" in script
    assert "default: 8000" not in script


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_missing_extra_is_one_sentence(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without shtab, the sentence has the command that installs it."""
    monkeypatch.delitem(sys.modules, "shtab", raising=False)
    (tmp_path / "shtab.py").write_text("raise ModuleNotFoundError('gone', name='shtab')")
    monkeypatch.syspath_prepend(tmp_path)

    assert PROGRAMS[program](["completion", "bash"]) == 2
    assert capsys.readouterr() == (
        "",
        f"{program}: {program} completion needs shtab: pip install 'swin-serve[cli]'\n",
    )
