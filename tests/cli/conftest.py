"""Fixtures for tests of commands."""

import logging
import signal
from collections.abc import Iterator

import pytest

# The loggers whose levels a command sets.
LOGGERS = (None, "uvicorn.error", "grpc", "python_multipart", "PIL")


@pytest.fixture(autouse=True)
def _log_and_signals_stay() -> Iterator[None]:
    """A command that runs in the process of the test configures its log and SIGTERM: undo both for later tests."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(capture=False)
    signal.signal(signal.SIGTERM, on_sigterm)
