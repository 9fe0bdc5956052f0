"""CPU time and memory of processes, as `/proc` tells them."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.system import processes


def test_resource_usage_includes_children() -> None:
    """The memory of a child counts as memory of its parent."""
    child = "data = bytearray(50_000_000); print(flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603 (this interpreter)
        assert process.stdout is not None
        process.stdout.readline()

        assert len(processes.process_tree(process.pid)) == 2
        assert processes.resource_usage(process.pid).memory > 50e6
        processes.kill_tree(process.pid)


def test_cpu_time_is_finer_than_a_tick() -> None:
    """The CPU time of another process has nanoseconds, not the 10 ms of `/proc/PID/stat`."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = processes.cpu_seconds(process.pid)

        assert round(found * processes.TICKS, 9) % 1 != 0
        process.kill()


def test_cpu_time_includes_all_threads_and_children_that_have_ended() -> None:
    """A thread and a child have each taken 0.1 s, and are gone."""
    work = "import time\nwhile time.process_time() < 0.1: pass"
    code = f"""
import subprocess, sys, threading
subprocess.run([sys.executable, "-c", {work!r}])
thread = threading.Thread(target=exec, args=({work!r}, {{}}))
thread.start()
thread.join()
print(flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603 (this interpreter)
        assert process.stdout is not None
        process.stdout.readline()

        assert processes.cpu_seconds(process.pid) >= 0.19
        process.kill()


def test_a_process_that_has_ended_takes_no_cpu_time() -> None:
    """`/proc` has no folder for it."""
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()

    assert processes.cpu_seconds(process.pid) == 0


def test_busy_seconds_can_be_those_of_some_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work on other CPUs does not count, whatever the beginning of their number is."""
    lines = [f"cpu{number} {10**number} 0 0 0 0 0 0 0 0 0" for number in range(12)]
    (tmp_path / "stat").write_text("\n".join(["cpu 999 0 0 0 0 0 0 0 0 0", *lines, "intr 1", "ctxt 2", ""]))
    monkeypatch.setattr(processes, "PROC", tmp_path)

    assert processes.busy_seconds({0, 2, 10}) == pytest.approx(10000000101 / processes.TICKS)


def test_busy_seconds_exclude_idle_and_disk_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupts and steal time count, and guest time counts once: user time includes it."""
    (tmp_path / "stat").write_text("cpu  1 10 100 7000000 80000000 1000 10000 100000 1 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    monkeypatch.setattr(processes, "PROC", tmp_path)

    assert processes.busy_seconds() == 111111 / processes.TICKS


def test_memory_is_rss_where_pss_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old kernels and some sandboxes have no `smaps_rollup`; `statm` has pages."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text("7 (python) S 1 " + "0 " * 40)
    (tmp_path / "7/statm").write_text("900 300 100 1 0 200 0\n")
    monkeypatch.setattr(processes, "PROC", tmp_path)

    assert processes.resource_usage(7).memory == 300 * processes.PAGE_BYTES


@pytest.mark.parametrize(("state", "expected"), [("S", True), ("D", True), ("Z", False), (None, False)])
def test_a_process_is_alive_until_it_has_ended(
    state: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, expected: bool
) -> None:
    """A zombie has ended: only its exit code is left."""
    if state is not None:
        (tmp_path / "7").mkdir()
        (tmp_path / "7/stat").write_text(f"7 (python) {state} 1 0")
    monkeypatch.setattr(processes, "PROC", tmp_path)

    assert processes.is_alive(7) == expected
