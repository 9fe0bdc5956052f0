"""Memory that the engine process and an HTTP worker share: pixels, outputs and the load of the batcher.

Each HTTP worker has a file of its own, so there is no shared allocator, and the file goes when the
worker exits. A slot that is never used takes no memory.
"""

import mmap
import os
import pickle
import socket
import struct
import sys
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.batching.admission import BatcherLoad
from app.model_output import ModelOutput

LOAD = struct.Struct(f"={len(BatcherLoad._fields)}dd")  # the fields, and the time of the write

# The load is published ten times a second. If it is older than this, the engine process has stopped working.
STALE_SECONDS = 15

# Bytes per write: Linux writes at most 2 GiB at once.
MAX_WRITE = 2**30

# Bytes of a CPU cache line. Each array begins at a multiple of it.
CACHE_LINE = 64


def are_available() -> bool:
    """Return whether this system has what HTTP workers need: anonymous files in memory and shared ports."""
    return sys.platform == "linux" and hasattr(os, "memfd_create") and hasattr(socket, "SO_REUSEPORT")


class TensorLayout(NamedTuple):
    """Number of slots, and the shapes of the arrays in each slot."""

    slots: int
    pixels: tuple[int, int, int]  # height, width, 3
    classes: int
    tokens: tuple[int, int]  # positions, channels


class TensorPool:
    """Numbered slots, each for the pixels and the output of one image.

    Has no lock: messages decide which process may write to a slot.

    Args:
        fd: file descriptor of the memory, from `create_memory`.
        layout: the same in both processes.
    """

    def __init__(self, fd: int, layout: TensorLayout) -> None:
        memory = mmap.mmap(fd, pool_size(layout))
        count, offset = layout.slots, 0
        arrays = list[NDArray[np.generic]]()
        for shape, kind in _slot_arrays(layout):
            array = np.frombuffer(memory, kind, count * int(np.prod(shape)), offset).reshape(count, *shape)
            arrays.append(array)
            offset += _aligned(array.nbytes)
        self.pixels: NDArray[np.uint8]
        self.pixels, self._logits, self._tokens = arrays  # type: ignore[assignment]  # (in the order of _slot_arrays)

    def write(self, slot: int, output: ModelOutput) -> None:
        """Write the output of the engine into a slot."""
        self._logits[slot] = output.logits
        if output.tokens is not None:
            self._tokens[slot] = output.tokens

    def read(self, slot: int, *, return_tokens: bool) -> ModelOutput:
        """Return a copy of the output in a slot, so that the slot can be reused."""
        return ModelOutput(self._logits[slot].copy(), self._tokens[slot].copy() if return_tokens else None)


class SharedLoad:
    """Load of the batcher in memory: the engine process writes it, and every HTTP worker reads it."""

    SIZE = LOAD.size

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, self.SIZE)

    def write(self, load: BatcherLoad) -> None:
        """Publish the load.

        Not atomic: a concurrent reader may see a mix of old and new fields, which is good enough for an
        estimate. `struct.pack_into` would not be: it fills the buffer with zeros first.
        """
        self._memory[:] = LOAD.pack(*load, time.monotonic())

    def read(self) -> BatcherLoad:
        """Return the last published load. If it is older than `STALE_SECONDS`, it reads as not alive."""
        *load, published_at = LOAD.unpack_from(self._memory)
        if time.monotonic() > published_at + STALE_SECONDS:
            return BatcherLoad._make(load)._replace(is_alive=False, works=False)
        return BatcherLoad._make(load)


def create_memory(name: str, size: int) -> int:
    """Create a file in memory and return its descriptor, which processes inherit to share the memory."""
    fd = os.memfd_create(name)
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


def write_shared(name: str, value: object) -> int:
    """Pickle a value into a file in memory and return its descriptor.

    Arrays are stored outside the pickle, so that `read_shared` does not copy them.
    """
    buffers = list[pickle.PickleBuffer]()
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(pickled), *(buffer.raw() for buffer in buffers)]
    lengths = struct.pack(f"={1 + len(parts)}Q", len(parts), *map(len, parts))
    fd, offset = create_memory(name, _aligned(len(lengths)) + sum(_aligned(len(part)) for part in parts)), 0
    for part in (memoryview(lengths), *parts):
        for begin in range(0, len(part), MAX_WRITE):
            os.pwrite(fd, part[begin : begin + MAX_WRITE], offset + begin)
        offset += _aligned(len(part))
    return fd


def read_shared(fd: int) -> Any:
    """Return the value that `write_shared` stored. Its arrays are read-only views of the shared memory."""
    content = memoryview(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))
    (count,) = struct.unpack_from("=Q", content)
    lengths = struct.unpack_from(f"={count}Q", content, 8)
    offset, parts = _aligned(8 + 8 * count), list[memoryview]()
    for length in lengths:
        parts.append(content[offset : offset + length])
        offset += _aligned(length)
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 (written by the engine process)


def pool_size(layout: TensorLayout) -> int:
    """Return the bytes of all slots."""
    return sum(
        _aligned(layout.slots * int(np.prod(shape)) * np.dtype(kind).itemsize) for shape, kind in _slot_arrays(layout)
    )


def _slot_arrays(layout: TensorLayout) -> list[tuple[tuple[int, ...], type[np.generic]]]:
    return [(layout.pixels, np.uint8), ((layout.classes,), np.float32), (layout.tokens, np.float32)]


def _aligned(size: int) -> int:
    return -(-size // CACHE_LINE) * CACHE_LINE
