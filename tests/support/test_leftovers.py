"""`tests/support/leftovers.py`: leftovers of a test do not affect the next test."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import leftovers

LEAVES = """
import asyncio, gc, socket

def test_that_fails():
    left = socket.socket(), asyncio.new_event_loop(), asyncio.sleep(0)
    raise AssertionError

def test_after_it():
    gc.collect()
"""


def test_leftovers_of_a_failed_test_do_not_fail_the_next(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket, event loop and coroutine are freed before the next test, which passes."""
    monkeypatch.setenv("PYTHONPATH", str(Path(leftovers.__file__).parents[2]))
    pytester.makepyfile(LEAVES)

    ended = pytester.runpytest_subprocess("-W", "error", "-p", "tests.support.leftovers")

    ended.assert_outcomes(failed=1, passed=1)


def test_a_process_that_still_runs_is_found() -> None:
    """A running child process is found by its process id; one that has ended is not."""
    waits = "import sys; print('waits', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", waits]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603 (our own)
        assert process.stdout is not None
        process.stdout.readline()
        during = leftovers.processes()

    assert waits in during[process.pid]
    assert process.pid not in leftovers.processes()
