"""A process with all that it started, and what they and everybody take, as `/proc` has it."""

import os
import signal
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")


class Taken(NamedTuple):
    """What a family of processes has taken until now, and holds now."""

    cpu_seconds: float  # user and system, all threads, and children that have ended
    memory: int  # bytes; what several of them share counts once (PSS)


def family(pid: int) -> list[int]:
    """The process and its descendants, parents first. Those whose parent has ended belong to nobody any more."""
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit() and (fields := stat(int(folder.name))):
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for each in found:  # grows while it is walked
        found += children.get(each, [])
    return found


def taken(pid: int) -> Taken:
    """By the process and its descendants."""
    members = family(pid)
    return Taken(sum(map(_cpu_seconds, members)), sum(map(_memory, members)))


def busy() -> float:
    """CPU seconds that the machine's CPUs were not idle until now, in sum; what its host took from it included."""
    fields = (PROC / "stat").read_text().split(maxsplit=9)[1:9]  # what follows is in user and nice already
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / TICKS


def stat(pid: int) -> list[str]:
    """The fields of proc(5) from the third on: the second is a name. None of one that has ended."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def end(pid: int) -> None:
    """Kill the process and its descendants, each by its id."""
    for member in family(pid):
        try:
            os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _cpu_seconds(pid: int) -> float:
    fields = stat(pid)
    return sum(map(int, fields[11:15])) / TICKS if fields else 0.0  # utime, stime, cutime, cstime


def _memory(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended meanwhile
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
