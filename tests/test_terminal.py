"""The output of the programs that use rich: on a terminal without colors, on a dumb terminal, and in a pipe."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import DEMO_BUNDLE
from benchmarks.load.served import START_SECONDS
from tests.browser.terminal_pictures import PICTURES, digest, shown, stored_digests
from tests.support.fake_server import fake_server, reply
from tests.support.terminal import COLOR, CONTROL, environment, on_terminal, screen
from tests.test_documentation import PYTHON_OF_CLI_PAGE

ROOT = Path(__file__).parents[1]
GOLDEN = DEMO_BUNDLE / "golden"
CHECKPOINT = ROOT / "model_export" / "data" / "demo_checkpoint"
ANSWER = {"predictions": [{"index": 7, "label": "seven", "score": 0.5}]}
# Stands for the address of a service in the arguments of a program.
SERVICE = "SERVICE"
# Arguments and a word of the output of each program, in a folder with images by class in `data`. Not `tune`: it takes
# at least 15 seconds.
PROGRAMS = {
    "bench": (
        ["app", "bench", SERVICE, "data", "--clients", "1,2", "--rates", "9", "--seconds", "0.3", "--warm-up", "0"],
        "closed loop",
    ),
    "classify": (["app", "classify", *["data/seven/seven.png"] * 12], "seven.png"),
    "score": (["app", "score", "data", "--output", "rows.parquet"], "2 rows"),
    "inspect": (["model_export", "inspect", str(DEMO_BUNDLE)], "signature"),
    "evaluate": (["model_export", "evaluate", str(DEMO_BUNDLE), "data"], "100.00 %"),
    "verify": (["model_export", "verify", str(DEMO_BUNDLE)], "✓ golden logits"),
    "build": (["model_export", "build", str(CHECKPOINT), "bundle"], "✓ write the bundle"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two digits, each in the folder of its class."""
    for name in ("one", "seven"):
        (tmp_path / "data" / name).mkdir(parents=True)
        shutil.copy(GOLDEN / f"{name}.png", tmp_path / "data" / name)
    return tmp_path


@pytest.fixture
def command(program: str) -> Iterator[list[str]]:
    """The arguments of a program. Its service gives the same answer to all requests."""
    with fake_server(reply(200, ANSWER)) as server:
        yield [server.url if word == SERVICE else word for word in PROGRAMS[program][0]]


def in_pipe(command: list[str], folder: Path) -> tuple[str, str]:
    """Run a module of Python with arguments. Return standard output and standard error."""
    ended = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        env=environment(PYTHONPATH=str(ROOT)),
        cwd=folder,
        check=True,
    )
    return ended.stdout, ended.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_pipe_gets_no_control_sequence(program: str, command: list[str], folder: Path) -> None:
    """In a pipe, there is no control sequence, and standard error has no empty line of a bar."""
    _, word = PROGRAMS[program]
    out, err = in_pipe(command, folder)

    assert word in out + err
    assert "\x1b" not in out + err
    assert "\n\n" not in f"\n{err}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_color_is_honored_on_a_terminal(program: str, command: list[str], folder: Path) -> None:
    """With NO_COLOR=1, a terminal gets the same words without a color."""
    _, word = PROGRAMS[program]
    text = on_terminal(command, folder=folder, PYTHONPATH=str(ROOT), NO_COLOR="1")

    assert word in CONTROL.sub("", text)
    assert not COLOR.search(text)


# Not `build`: it takes longest, and writes as `verify` does.
@pytest.mark.parametrize("program", [name for name in PROGRAMS if name != "build"])
def test_a_dumb_terminal_gets_no_control_sequence(program: str, command: list[str], folder: Path) -> None:
    """With TERM=dumb, nothing moves the cursor or sets a color."""
    _, word = PROGRAMS[program]
    text = on_terminal(command, folder=folder, PYTHONPATH=str(ROOT), TERM="dumb")

    assert word in text
    assert "\x1b" not in text


def test_a_terminal_gets_colors(folder: Path) -> None:
    """Without NO_COLOR, a terminal gets colors."""
    assert COLOR.search(on_terminal(PROGRAMS["verify"][0], folder=folder, PYTHONPATH=str(ROOT)))


def test_a_table_has_the_width_of_its_terminal_and_is_whole_in_a_pipe(folder: Path) -> None:
    """A terminal of 80 columns gets no longer line. In a pipe, each row is one line."""
    command, _ = PROGRAMS["inspect"]
    shown = CONTROL.sub("", on_terminal(command, folder=folder, PYTHONPATH=str(ROOT))).splitlines()
    out, _ = in_pipe(command, folder)

    assert max(map(len, shown)) == 80
    assert any(line.split()[:2] == ["weights", "SHA-256"] and len(line.split()[2]) == 64 for line in out.splitlines())


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_show_the_present_output(name: str) -> None:
    """`make screenshots` has been run since the output that a picture shows was changed."""
    if name == "terminal-help" and sys.version_info[:2] != PYTHON_OF_CLI_PAGE:
        pytest.skip("argparse of this Python formats help texts otherwise")

    assert digest(PICTURES[name], shown(PICTURES[name])) == stored_digests()[name]


def test_numbers_leave_the_digest_of_a_picture() -> None:
    """Durations, versions and differences do not change the digest, and words do."""
    picture = PICTURES["terminal-build"]
    first = digest(picture, "✓ read  0.4 s\n  ███▏ 5.4e-06 levels, timm 1.0.31")

    assert digest(picture, "✓ read 12.0 s\n  ██ 0 levels, timm 1.1") == first
    assert digest(picture, "✓ wrote 0.4 s\n  ███▏ 5.4e-06 levels, timm 1.0.31") != first


def test_the_screen_is_what_remains() -> None:
    """A line that is written again replaces what stood there, and a step upward returns to the line above."""
    text = "first\r\n\x1b[32m⠋\x1b[0m all\r\x1b[2K\x1b[?25h\x1b[32m✓\x1b[0m all\r\n\x1b[1A\r\x1b[2Klast\r\n"

    assert screen(text) == "first\nlast"
    assert screen("\x1b[?25l\x1b[32m⠙\x1b[0m step\r\x1b[2K\x1b[1;32m✓\x1b[0m full\n") == "\x1b[1;32m✓\x1b[0m full"
