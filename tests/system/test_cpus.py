"""`app/system/cpus.py`: the CPUs that a container grants, not those of its host, and their model."""

import os
import platform
from pathlib import Path

import pytest

from app.system.cpus import available_cpus, cpu_model, granted_cpus

AFFINITY = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "granted", "available"),
    [
        ("50000 100000", 0.5, 1),
        ("max 100000", AFFINITY, AFFINITY),
        (f"{2 * AFFINITY}00000 100000", AFFINITY, AFFINITY),
        ("", AFFINITY, AFFINITY),
    ],
)
def test_a_quota_of_cgroup_version_2_counts(tmp_path: Path, quota: str, granted: float, available: int) -> None:
    """A fraction counts as one CPU, a quota above all CPUs or an unreadable one as none."""
    (tmp_path / "cpu.max").write_text(quota)

    assert (granted_cpus(tmp_path), available_cpus(tmp_path)) == (granted, available)


@pytest.mark.parametrize(("quota", "granted"), [("50000", 0.5), ("-1", AFFINITY)])
def test_a_quota_of_cgroup_version_1_counts(tmp_path: Path, quota: str, granted: float) -> None:
    """A negative number means that there is no limit."""
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")

    assert granted_cpus(tmp_path) == granted


def test_without_a_cgroup_the_affinity_counts(tmp_path: Path) -> None:
    """Without a quota, the process may use the CPUs of its affinity."""
    assert available_cpus(tmp_path) == AFFINITY


def test_the_model_of_the_cpu_is_named(tmp_path: Path) -> None:
    """The name is that of the first CPU. Without one, it is the architecture."""
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nmodel name\t: another\n")

    assert cpu_model(info) == "A CPU @ 2 GHz"
    assert cpu_model(tmp_path / "missing") == platform.machine()
