"""What a test leaves behind: a plugin of pytest. Knows nothing about the service."""

import gc
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """End as after Ctrl-C where a run is terminated: every fixture then stops what it has started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_runtest_logfinish() -> None:
    """Free what a failed test has left open, without a warning.

    Python keeps the traceback of the last failure, and with it sockets, event loops and coroutines, until the next test
    is called. Their warnings are errors here, and that test would fail for them.
    """
    failed = [vars(sys).pop(name, None) for name in ("last_type", "last_value", "last_traceback", "last_exc")]
    if not any(failed):
        return
    failed.clear()
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
    finally:
        sys.unraisablehook = hook


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """End every process that a test has started and not ended, and tell."""
    yield
    left = processes()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"still running at the end of all tests: {list(left.values())}"


def processes() -> Mapping[int, str]:
    """Return the command of each process that this one has started and that still runs, by process id."""
    return {pid: command for pid in _children() if "multiprocessing.resource_tracker" not in (command := _command(pid))}


def _children() -> list[int]:
    lists = Path("/proc/self/task").glob("*/children")  # empty where the kernel does not count them
    found = [int(pid) for each in lists for pid in each.read_text().split()]
    return [pid for pid in found if "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
