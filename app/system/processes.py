"""CPU time and memory of a process tree and of the machine, read from `/proc`."""

import os
import signal
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
# Clock ticks per second: the unit of CPU time in `/proc`.
TICKS = os.sysconf("SC_CLK_TCK")


class ResourceUsage(NamedTuple):
    """CPU time of a process tree so far, and its memory now."""

    cpu_seconds: float  # user and system, all threads, and children that have ended
    memory: int  # bytes (PSS): pages that several processes share count once


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


def busy_seconds() -> float:
    """Return the CPU seconds for which the CPUs of the machine were not idle, including steal time."""
    fields = (PROC / "stat").read_text().split(maxsplit=9)[1:9]  # user and nice include the guest fields that follow
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / TICKS


def process_stat(pid: int) -> list[str]:
    """Return the fields of `/proc/PID/stat` (proc(5)) from the third on; none if the process has ended.

    The second field is the name of the program, which may contain spaces.
    """
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def peak_rss(pid: int) -> int:
    """Return the peak resident memory of a process so far, in bytes.

    `getrusage` would count the memory of the parent, too, at the time of the fork.
    """
    status = (PROC / str(pid) / "status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def kill_tree(pid: int) -> None:
    """Kill the process and its descendants, each by its id."""
    for member in process_tree(pid):
        try:
            os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _cpu_seconds(pid: int) -> float:
    fields = process_stat(pid)
    return sum(map(int, fields[11:15])) / TICKS if fields else 0.0  # utime, stime, cutime, cstime


def _memory(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:  # the process has ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
