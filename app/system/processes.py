"""CPU time and memory of a process tree and of the machine, read from `/proc`."""

import contextlib
import os
import signal
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
# Clock ticks per second: the unit of CPU time in `/proc`.
TICKS = os.sysconf("SC_CLK_TCK")
# Bytes of a page: the unit of memory in `/proc/PID/statm`.
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ResourceUsage(NamedTuple):
    """CPU time of a process tree so far, and its memory now."""

    cpu_seconds: float  # user and system, all threads, and children that have ended
    memory: int  # bytes (PSS): pages that several processes share count once, unless only RSS can be read


def process_tree(pid: int) -> list[int]:
    """Return the ids of a process and its descendants, parents first.

    A process is not found if its parent has ended.
    """
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (fields := process_stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for each in found:  # the list grows during the iteration
        found += children.get(each, [])
    return found


def resource_usage(pid: int) -> ResourceUsage:
    """Return the usage of a process and its descendants."""
    members = process_tree(pid)
    return ResourceUsage(sum(map(_cpu_seconds, members)), sum(map(_memory, members)))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its descendants so far. Takes less time than `resource_usage`."""
    return sum(map(_cpu_seconds, process_tree(pid)))


def busy_seconds(cpus: Collection[int] | None = None) -> float:
    """Return the CPU seconds for which these CPUs were not idle, including steal time. None: those of the machine."""
    names = {"cpu"} if cpus is None else {f"cpu{cpu}" for cpu in cpus}
    lines = (line.split() for line in (PROC / "stat").read_text().splitlines())
    return sum(_busy_ticks(fields) for name, *fields in lines if name in names) / TICKS


def _busy_ticks(fields: Sequence[str]) -> int:
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_guest = map(int, fields)
    return user + nice + system + irq + softirq + steal  # user and nice include the guest fields


def process_stat(pid: int) -> list[str]:
    """Return the fields of `/proc/PID/stat` (proc(5)) from the third on; none if the process has ended.

    The second field is the name of the program, which may contain spaces.
    """
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    fields = process_stat(pid)
    return bool(fields) and fields[0] != "Z"


def peak_rss(pid: int) -> int:
    """Return the peak resident memory of a process so far, in bytes.

    `getrusage` would count the memory of the parent, too, at the time of the fork.
    """
    status = (PROC / str(pid) / "status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def kill_tree(pid: int) -> list[int]:
    """Kill the process and its descendants, each by its id. Return the ids."""
    members = process_tree(pid)
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    return members


def _cpu_seconds(pid: int) -> float:
    fields = process_stat(pid)
    if not fields:
        return 0.0
    own, ended_children = (sum(map(int, fields[first : first + 2])) / TICKS for first in (11, 13))
    with contextlib.suppress(OSError):  # the process has ended meanwhile
        own = time.clock_gettime(_cpu_clock(pid))
    return own + ended_children


def _cpu_clock(pid: int) -> int:
    """Return the clock that counts the CPU time of all threads of a process in nanoseconds: clock_getcpuclockid(3)."""
    return (~pid << 3) | 2


def _memory(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:  # the process has ended, the kernel is older than 4.14, or a sandbox hides the file
        return _resident(pid)
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _resident(pid: int) -> int:
    """Return the resident memory (RSS) of a process in bytes; 0 if it has ended."""
    try:
        return PAGE_BYTES * int((PROC / str(pid) / "statm").read_text().split()[1])
    except OSError:
        return 0
