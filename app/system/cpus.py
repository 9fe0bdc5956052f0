"""The CPUs that this process may use, by its affinity and its cgroup's quota, and their model.

The host's core count plays no role.
"""

import math
import os
import platform
import re
from pathlib import Path

CGROUP, CPU_INFO = Path("/sys/fs/cgroup"), Path("/proc/cpuinfo")


def available_cpus(cgroup: Path = CGROUP) -> int:
    """Return how many CPUs this process may use: at least 1, and a fraction counts as one."""
    return max(1, math.ceil(granted_cpus(cgroup)))


def allowed_cpus() -> frozenset[int]:
    """Return the numbers of the CPUs on which this process may run. Without an affinity, those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def granted_cpus(cgroup: Path = CGROUP) -> float:
    """Return how many seconds of CPU time this process may use in a second."""
    allowed = len(allowed_cpus())
    quota = _quota(cgroup)
    return allowed if quota is None else min(allowed, quota)


def cpu_model(cpu_info: Path = CPU_INFO) -> str:
    """Return the name of the CPU model, or of the architecture where the system does not tell."""
    try:
        found = re.search(r"^model name\s*: (.*)", cpu_info.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _quota(cgroup: Path) -> float | None:
    """Return the CPUs granted by the cgroup, version 2 (`cpu.max`) or 1; None without a limit."""
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
