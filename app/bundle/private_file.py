"""Private copies of files, which no other process can change. Knows nothing about bundles.

The copy has no name in any folder. It is an unlinked file in the folder of `tempfile` (`TMPDIR`),
or anonymous memory if that folder has no room. Opening the path of the copy reads the copy, even if
the original is gone.
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
CHUNK_BYTES = 2**20
# The folder in which a process can open its own file descriptors.
DESCRIPTORS = Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd")


class PrivateFile:
    """A private copy of a file. Its memory or disk space is freed together with this object.

    Args:
        source: the file to copy, as a whole.

    Raises:
        OSError: `source` cannot be read, or there is no room for the copy.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._descriptor, self.sha256, self.size = _copied(source)
        weakref.finalize(self, os.close, self._descriptor)

    def __reduce__(self) -> NoReturn:
        # The descriptor has no meaning in another process.
        raise TypeError("a private file stays in the process that made it")

    @property
    def path(self) -> Path:
        """The path at which this process can open the copy, as long as this object exists."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)  # outside Linux, opening the path shares the position
        return DESCRIPTORS / str(self._descriptor)


def _copied(source: BinaryIO) -> tuple[int, str, int]:
    """Copy the file, and return descriptor, SHA-256 and size of the copy."""
    failures = list[OSError]()
    for create in _stores():
        source.seek(0)
        try:
            return _copied_to(create, source)
        except OSError as error:
            failures.append(error)
    raise failures[0]


def _stores() -> Iterator[Callable[[], int]]:
    """Yield functions that open a new file without a name: on disk, then in memory."""
    yield _on_disk
    if hasattr(os, "memfd_create"):
        yield lambda: os.memfd_create("swin-private")


def _on_disk() -> int:
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())


def _copied_to(create: Callable[[], int], source: BinaryIO) -> tuple[int, str, int]:
    digest, size = hashlib.sha256(), 0
    with contextlib.ExitStack() as on_failure:
        descriptor = create()
        on_failure.callback(os.close, descriptor)
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            unwritten = memoryview(chunk)
            while unwritten:
                unwritten = unwritten[os.write(descriptor, unwritten) :]
        on_failure.pop_all()
    return descriptor, digest.hexdigest(), size
