"""Results, errors, bars on a terminal, tables, files to write, and signals of all commands. Knows no command."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from app.errors import StartError
from app.extras import is_installed
from app.validation_messages import printable

# Terminals that cannot move their cursor, as rich names them.
DUMB_TERMINALS = frozenset({"dumb", "unknown"})


class OutputLost(Exception):
    """Standard output takes no text: it is closed, or the disk is full. Without a reason, its reader has ended."""


def open_closed_streams() -> None:
    """Open the standard streams that are closed. Otherwise, a socket gets their number, and libuv aborts then.

    Standard input is empty, standard output cannot be written, and standard error is dropped.
    """
    streams = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w"))
    for number, (name, flags, mode) in enumerate(streams):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest number that is free
            setattr(sys, name, open(number, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115 (until the end)


def show(text: str, end: str = "\n") -> None:
    """Print a result.

    Raises:
        OutputLost: standard output takes no text.
    """
    with written(sys.stdout):
        print(text, end=end)


@contextmanager
def written(out: TextIO) -> Iterator[None]:
    """Flush standard output at the end of the block.

    Raises:
        OutputLost: it takes no text.
    """
    try:
        yield
        out.flush()
    except OSError as error:
        with open(os.devnull, "wb") as nothing:  # noqa: PTH123 (no path of a file)
            os.dup2(nothing.fileno(), out.fileno())  # Python flushes it at the end
        if isinstance(error, BrokenPipeError):  # as `head` ends
            raise OutputLost from error
        raise OutputLost(f"cannot write to standard output: {error.strerror}") from error


def draws_bars() -> bool:
    """Return whether standard error is a terminal that can draw a bar, and rich is installed."""
    is_dumb = os.environ.get("TERM", "").lower() in DUMB_TERMINALS
    return sys.stderr.isatty() and not is_dumb and is_installed("rich")


def fail(*reasons: str) -> int:
    """Print the reasons why the work failed. Return the exit code: 1 if there are any."""
    for reason in reasons:
        print(f"swin-serve: {printable(reason)}", file=sys.stderr)
    return 1 if reasons else 0


def check_files(files: Mapping[str, Path | None]) -> None:
    """Check that the files of these options can be written, before the work begins.

    Raises:
        StartError: a file cannot be written, or two options name the same file.
    """
    options = dict[Path, str]()
    for option, path in files.items():
        if path is None:
            continue
        if not _can_be_written(path):
            raise StartError(f"{option} {path}: cannot write this file; choose a file in an existing folder")
        if path in options:
            raise StartError(f"{options[path]} and {option} are the same file, {path}; choose two")
        options[path] = option


def _can_be_written(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)
    except OSError:  # a file in place of its folder, or a name that is too long
        return False
    return not path.is_dir() and os.access(path, os.W_OK)


def write_files(files: Mapping[Path, bytes]) -> list[str]:
    """Write files. Return a sentence for each one that cannot be written."""
    faults = list[str]()
    for path, content in files.items():
        try:
            path.write_bytes(content)
        except OSError as error:
            faults.append(f"cannot write {path}: {error.strerror}")
    return faults


def aligned(rows: Sequence[Sequence[str]], left: int = 0) -> Iterator[str]:
    """Yield the rows of a table as lines. Cells are aligned to the right, but those of the last `left` columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first_left = len(widths) - left
    for row in rows:
        cells = [
            cell.ljust(width) if column >= first_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


@contextmanager
def cancelled_by_signals() -> Iterator[None]:
    """Cancel the running task on SIGINT and SIGTERM inside the block."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.getsignal(each) for each in signals}
    for each in signals:
        loop.add_signal_handler(each, lambda: task and task.cancel())
    try:
        yield
    finally:
        for each in signals:
            loop.remove_signal_handler(each)
            signal.signal(each, before[each])
