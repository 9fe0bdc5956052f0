"""`swin-serve` with an engine that a test can hold.

`python -m tests.support.held_engine run …` replaces `python -m app run …`. The environment variable
HELD_ENGINE names a file. While a test holds an exclusive lock on it, each batch waits.
"""

import fcntl
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.cli.main import main
from app.inference import session

VARIABLE = "HELD_ENGINE"
# The event in the log when a batch begins to wait.
WAITS = "a batch waits"


class HeldSession:
    """A session of ONNX Runtime. Each run waits for a lock."""

    def __init__(self, session: Any, file: Path) -> None:
        self._session, self._file = session, file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *arguments: Any) -> Any:
        """Wait while the file is locked, then run."""
        with self._file.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                logging.getLogger("swin.engine").warning(WAITS)
                fcntl.flock(lock, fcntl.LOCK_SH)
        return self._session.run(*arguments)


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Hold the engine inside the block."""
    with file.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    open_session, held_file = session._open, Path(os.environ[VARIABLE])  # noqa: SLF001 (opens every session)
    session._open = lambda *arguments: HeldSession(open_session(*arguments), held_file)  # noqa: SLF001 (likewise)
    sys.exit(main())
