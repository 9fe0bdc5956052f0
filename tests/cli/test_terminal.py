"""Files to write, tables, bars, errors, and signals of all commands."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from app.cli import terminal
from app.errors import StartError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def test_files_in_a_folder_can_be_written(tmp_path: Path) -> None:
    """A new file and a file that is replaced are both right. A file that is not wanted is not checked."""
    old = tmp_path / "old"
    old.write_text("old")

    terminal.check_files({"--report": tmp_path / "new", "--picture": old, "--output": None})
    assert old.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("place", ["", "file/new", "missing/new", "locked/new", "read-only", "n" * 300])
def test_a_place_that_holds_no_file_is_refused(place: str, tmp_path: Path) -> None:
    """A folder, a file in place of the folder, a folder that is missing, and names and modes that do not allow it."""
    if os.geteuid() == 0 and place in {"locked/new", "read-only"}:
        pytest.skip("root may write anywhere")
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir(mode=0o500)
    (tmp_path / "read-only").touch(mode=0o400)

    with pytest.raises(StartError, match=r"^--report .*: cannot write this file; choose a file in an existing folder$"):
        terminal.check_files({"--report": tmp_path / place})


def test_two_options_do_not_write_the_same_file(tmp_path: Path) -> None:
    """The sentence names both options."""
    with pytest.raises(StartError, match=r"^--picture and --report are the same file, .*; choose two$"):
        terminal.check_files({"--picture": tmp_path / "a", "--report": tmp_path / "a"})


def test_cells_are_aligned() -> None:
    """Columns are aligned to the right, and the last ones to the left. No line ends with a space."""
    rows = [["a", "bbb", "c", "d"], ["aaa", "b", "cc", ""]]

    assert list(terminal.aligned(rows)) == ["  a  bbb   c  d", "aaa    b  cc"]
    assert list(terminal.aligned(rows, left=2)) == ["  a  bbb  c   d", "aaa    b  cc"]


@pytest.mark.parametrize(
    ("is_terminal", "kind", "has_rich", "expected"),
    [
        (True, "xterm", True, True),
        (False, "xterm", True, False),
        (True, "DUMB", True, False),
        (True, "unknown", True, False),
        (True, "xterm", False, False),
    ],
)
def test_bars_need_a_terminal_and_rich(
    *, is_terminal: bool, kind: str, has_rich: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bars are drawn on a terminal that can move its cursor, if rich is installed."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setattr(terminal, "is_installed", lambda name: has_rich and name == "rich")

    assert terminal.draws_bars() is expected


def test_reasons_are_lines_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """Each reason is one line of standard error, and a name in it cannot move the cursor or begin a line."""
    assert terminal.fail("first\x1b[2J", "second\nthird") == 1

    output = capsys.readouterr()
    first, second = output.err.splitlines()
    assert output.out == ""
    assert first == "swin-serve: first\\x1b[2J"
    assert second.startswith("swin-serve: second")
    assert "third" in second


def test_without_a_reason_nothing_failed(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 0, and there is no line."""
    assert terminal.fail() == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_cancel_the_task_and_their_handlers_return(number: signal.Signals) -> None:
    """A signal inside the block cancels the task. After the block, the handlers are those from before."""
    arrived = list[int]()
    before = {each: signal.signal(each, lambda number, _: arrived.append(number)) for each in SIGNALS}
    handlers = {each: signal.getsignal(each) for each in SIGNALS}

    async def work() -> bool:
        try:
            with terminal.cancelled_by_signals():
                os.kill(os.getpid(), number)
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            return True
        return False

    try:
        assert asyncio.run(work())
        assert {each: signal.getsignal(each) for each in SIGNALS} == handlers
        os.kill(os.getpid(), number)
        assert arrived == [number]
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
