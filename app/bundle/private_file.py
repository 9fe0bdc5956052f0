"""A copy of a file that no other process can change or cut short. Knows nothing about bundles.

The copy has no name in any folder: an unlinked file where `tempfile` puts its files (`TMPDIR`), or anonymous memory
where that has no room. Opening the path of a copy reads the copy, whatever has become of the original.
"""

import contextlib
import hashlib
import os
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

# Bytes that are read, hashed and written at a time.
PIECE = 2**20
# Where a process finds the files that it has open, by their descriptors.
DESCRIPTORS = Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")


class PrivateFile:
    """One copy; its memory or disk space is freed with this object.

    Args:
        source: what to copy, from the beginning to the end.

    Raises:
        OSError: `source` cannot be read, or there is no room for the copy.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._descriptor, self.sha256, self.size = _copied(source)
        weakref.finalize(self, os.close, self._descriptor)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: the descriptor has no meaning in another process."""
        raise TypeError("a private file stays in the process that made it")

    @property
    def path(self) -> Path:
        """Where this process can open the copy, as long as this object lives."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)  # outside Linux, opening shares the position
        return DESCRIPTORS / str(self._descriptor)


def _copied(source: BinaryIO) -> tuple[int, str, int]:
    """Descriptor, SHA-256 and size of the copy."""
    failures = list[OSError]()
    for room in _rooms():
        source.seek(0)
        try:
            return _copied_to(room, source)
        except OSError as error:
            failures.append(error)
    raise failures[0]


def _rooms() -> Iterator[Callable[[], int]]:
    """Ways to get a new file without a name: on disk, then in memory."""
    yield _on_disk
    if hasattr(os, "memfd_create"):
        yield lambda: os.memfd_create("swin-private")


def _on_disk() -> int:
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())


def _copied_to(room: Callable[[], int], source: BinaryIO) -> tuple[int, str, int]:
    digest, size = hashlib.sha256(), 0
    with contextlib.ExitStack() as failed:
        descriptor = room()
        failed.callback(os.close, descriptor)
        while piece := source.read(PIECE):
            digest.update(piece)
            size += len(piece)
            left = memoryview(piece)
            while left:
                left = left[os.write(descriptor, left) :]
        failed.pop_all()
    return descriptor, digest.hexdigest(), size
