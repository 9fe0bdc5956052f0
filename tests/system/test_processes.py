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
