"""What commands share: errors, bars on a terminal, tables, files to write, and signals. Knows no command."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.errors import StartError
from app.extras import is_installed
from app.validation_messages import printable

# Terminals that cannot move their cursor, as rich names them.
DUMB_TERMINALS = frozenset({"dumb", "unknown"})


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
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise StartError(f"{option} {path}: cannot write this file; choose a file in an existing folder")
        if path in options:
            raise StartError(f"{options[path]} and {option} are the same file, {path}; choose two")
        options[path] = option


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
