"""How many CPUs this process may really use: its affinity and its cgroup's quota, not the host's core count."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_cpus(cgroup: Path = CGROUP) -> int:
    """CPUs this process may use, at least 1; a part of one counts as one."""
    return max(1, math.ceil(granted_cpus(cgroup)))


def granted_cpus(cgroup: Path = CGROUP) -> float:
    """Seconds of CPU time a second that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return allowed if quota is None else min(allowed, quota)


def _quota(cgroup: Path) -> float | None:
    """CPUs granted by the cgroup, version 2 (`cpu.max`) or 1; None where there is no limit."""
    try:
        granted, period = (cgroup / "cpu.max").read_text().split()
        return None if granted == "max" else int(granted) / int(period)
    except (OSError, ValueError):
        pass
    try:
        granted = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
        period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        return None if int(granted) < 0 else int(granted) / int(period)
    except (OSError, ValueError):
        return None
