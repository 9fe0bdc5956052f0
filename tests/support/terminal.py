"""A program on a terminal: a pseudo-terminal of a given width, and the screen that its output leaves."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load.served import START_SECONDS

# Sequences that set a color of the text or of its background.
COLOR = re.compile(r"\x1b\[[\d;]*?(?:3|4|9|10)[0-8](?:;[\d;]*)?m")
CONTROL = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
ROWS = 50


def environment(**changes: str) -> dict[str, str]:
    """Return the environment of a terminal with colors, whatever runs the tests, with these changes."""
    names = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "CI")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return kept | {"TERM": "xterm-256color", "LANG": "C.UTF-8"} | changes


def on_terminal(command: Sequence[str], *, columns: int = 80, folder: Path | None = None, **changes: str) -> str:
    """Run a module of Python with arguments on a terminal. Return all that it writes there.

    Raises:
        CalledProcessError: the program failed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    written = list[bytes]()
    with subprocess.Popen(  # noqa: S603 (our own interpreter)
        [sys.executable, "-m", *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(**changes),
        cwd=folder,
    ) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: the program has closed the terminal
            while piece := os.read(ours, 65536):
                written.append(piece)
        code = process.wait(START_SECONDS)
    os.close(ours)
    text = b"".join(written).decode()
    if code != 0:
        raise subprocess.CalledProcessError(code, command, text)
    return text


def screen(text: str) -> str:
    """Return the lines that are on the screen after all this was written, with their colors.

    Knows the sequences of rich: a line is erased before it is written again, and only whole lines are left upward.
    """
    lines, row = [""], 0
    for piece in re.findall(rf"{CONTROL.pattern}|[\r\n]|[^\x1b\r\n]+", text):
        match piece[-1] if piece[0] in "\x1b\n\r" else "":
            case "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            case "A":
                row -= int(piece[2:-1])
            case "K":
                lines[row] = ""
            case "" | "m":
                lines[row] += piece
    return "\n".join(lines).rstrip()
