"""The child process, which ends when its standard input closes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from app.load.target import Target
from app.system.ports import HOST, free_port
from app.system.processes import is_alive, kill_tree, process_tree
from benchmarks.load.served import START_SECONDS
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are counted in /proc")

STUCK = "import app.tuning.child as child; child.SERVICE = 'tests.tuning.stuck_app'; child.main()"

# A beginning of a program for which `/proc` cannot be read: other systems have none, or no file can be opened.
WITHOUT_PROC = "import pathlib, app.system.processes as p; p.PROC = pathlib.Path('/missing'); "


@contextmanager
def child(*command: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a child whose standard input is a pipe. Kill it at the end, if it still runs."""
    process = subprocess.Popen(  # noqa: S603 (this interpreter)
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | environment
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_tree(process.pid)
        process.communicate()


def test_a_service_ends_with_its_standard_input() -> None:
    """The service and its HTTP workers end when the other end of the pipe closes."""
    port = free_port()
    url = f"{Target(f'http://{HOST}:{port}').url}/health/ready"

    def is_ready() -> bool:
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            return False

    options = ("run", "--device", "cpu", "--port", str(port), "--http-workers", "1")
    with child("-m", "app.tuning.child", *options) as process:
        assert process.stdin is not None
        until(is_ready)
        members = process_tree(process.pid)
        assert len(members) == 2

        process.stdin.close()
        process.stdin = None

        assert process.wait(timeout=START_SECONDS) == 1
        until(lambda: not any(is_alive(pid) for pid in members))


@pytest.mark.parametrize("before", ["", WITHOUT_PROC])
def test_a_service_that_is_stuck_ends_too(before: str) -> None:
    """A thread watches the pipe, so a main thread that never returns does not matter. Nor does a missing `/proc`."""
    with child("-c", before + STUCK) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"stuck\n"

        process.stdin.close()
        process.stdin = None

        assert process.wait(timeout=START_SECONDS) == 1


def test_a_killed_parent_leaves_no_child() -> None:
    """SIGKILL lets no program clean up, but the kernel closes its pipe."""
    parent = (
        "import subprocess, sys, time;"
        f"child = subprocess.Popen([sys.executable, '-c', {STUCK!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE);"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(600)"
    )
    with child("-c", parent) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert is_alive(pid)

        process.send_signal(signal.SIGKILL)

        until(lambda: not is_alive(pid))


@pytest.mark.parametrize(("option", "code"), [("--version", 0), ("--no-such-option", 2)])
def test_a_child_ends_as_the_service_does(option: str, code: int) -> None:
    """While the pipe is open, the exit code is that of the service."""
    with child("-m", "app.tuning.child", option) as process:
        assert process.wait(timeout=START_SECONDS) == code
