"""A plugin of pytest that frees leftovers of failed tests and ends leftover processes.

Knows nothing about the service.
"""

import gc
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Treat SIGTERM as Ctrl-C, so that every fixture stops what it has started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_runtest_logfinish() -> None:
    """Free the open resources of a failed test, without a warning.

    Python keeps the traceback of the last failure until the next test is called, and with it
    sockets, event loops and coroutines. Their warnings are errors, so the next test would fail.
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
    """Kill every process that a test has started and not ended, and fail if there was one."""
    yield
    left = processes()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"still running at the end of all tests: {list(left.values())}"


def processes() -> Mapping[int, str]:
    """Return the commands of the running child processes, by process id."""
    return {pid: command for pid in _children() if "multiprocessing.resource_tracker" not in (command := _command(pid))}


def _children() -> list[int]:
    lists = Path("/proc/self/task").glob("*/children")  # empty if the kernel does not list children
    found = [int(pid) for each in lists for pid in each.read_text().split()]
    return [pid for pid in found if "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
