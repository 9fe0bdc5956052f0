"""`app/system/cpus.py`: what a container grants counts, not what its host has."""

import os
from pathlib import Path

import pytest

from app.system.cpus import available_cpus, granted_cpus

HERE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "granted", "available"),
    [("50000 100000", 0.5, 1), ("max 100000", HERE, HERE), (f"{2 * HERE}00000 100000", HERE, HERE), ("", HERE, HERE)],
)
def test_a_quota_of_the_second_version_counts(tmp_path: Path, quota: str, granted: float, available: int) -> None:
    """A part of a CPU is one, for threads; more than there are is none, and so is what cannot be read."""
    (tmp_path / "cpu.max").write_text(quota)

    assert (granted_cpus(tmp_path), available_cpus(tmp_path)) == (granted, available)


@pytest.mark.parametrize(("quota", "granted"), [("50000", 0.5), ("-1", HERE)])
def test_a_quota_of_the_first_version_counts(tmp_path: Path, quota: str, granted: float) -> None:
    """Where there is no limit, it says so by a negative number."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")

    assert granted_cpus(tmp_path) == granted


def test_without_a_cgroup_all_that_the_process_may_use_are_there(tmp_path: Path) -> None:
    """Its affinity says."""
    assert available_cpus(tmp_path) == HERE
