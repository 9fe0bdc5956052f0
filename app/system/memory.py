"""Memory: thresholds of malloc, objects that no collection visits, and what is left for other processes.

Knows nothing of what the memory holds.
"""

import contextlib
import ctypes
import gc
import re
from pathlib import Path

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")

# The limit of a cgroup, what it uses, and its statistics, in version 2 and in version 1.
CGROUP_FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)

# Parameters of glibc's mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8

# Blocks of 4 MiB or more are mapped from the kernel: the pixels of a photo of over a megapixel.
MMAP_THRESHOLD_BYTES = 4 * 2**20

# Up to 16 MiB of freed memory stay on the heap. Smaller photos reuse them without a system call.
TRIM_THRESHOLD_BYTES = 16 * 2**20


def configure_malloc() -> None:
    """Let glibc return freed blocks of `MMAP_THRESHOLD_BYTES` or more to the kernel at once.

    With its defaults, glibc raises this threshold to the size of the largest block that was freed.
    Then large blocks come from the heap, and stay there as long as a small block lies above them.
    Each decode thread would also have a heap of its own, with its own unused memory.

    Do nothing if the C library is not glibc.
    """
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
        library.mallopt(M_ARENA_MAX, 1)


def freeze_gc() -> None:
    """Let the garbage collector skip all objects that exist now. Call this when everything is open.

    These objects live as long as the process. A full collection would look at all of them and find
    nothing: 40 ms without an answer, once in a thousand requests.
    """
    gc.freeze()


def available_memory(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int:
    """Return the bytes that new processes can take, by the machine and by the cgroup of this process."""
    line = meminfo.read_text().partition("MemAvailable:")[2]
    available = 1024 * int(line.split()[0])
    left = _left_in_cgroup(cgroup)
    return available if left is None else max(min(available, left), 0)


def _left_in_cgroup(cgroup: Path) -> int | None:
    """Return the bytes that a cgroup may still take; None without a limit. Version 1 has a huge number for none.

    Pages of files that were not read lately count as used, but the kernel frees them when others are needed.
    """
    for files in CGROUP_FILES:
        with contextlib.suppress(OSError):
            limit, used, statistics = ((cgroup / name).read_text().strip() for name in files)
            if limit == "max":
                return None
            inactive = re.search(r"^inactive_file (\d+)", statistics, re.MULTILINE)
            return int(limit) - int(used) + (int(inactive[1]) if inactive else 0)
    return None
