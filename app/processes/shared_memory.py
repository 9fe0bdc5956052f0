"""Places in memory that two processes share: pixels go down in them, logits and tokens come up.

Each HTTP worker has its own, so there is no allocator to share, and what an HTTP worker that dies leaves behind dies with it.
A slot that nobody uses takes no memory.
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

LOAD = struct.Struct(f"={len(BatcherLoad._fields)}dd")  # and when it was written
STALE_SECONDS = 15
"""What was written so long ago is no longer so: it is written ten times a second."""

# One write takes 2 GiB at most.
PIECE = 2**30

LINE = 64
"""Bytes of a cache line, on which each array begins."""


def are_available() -> bool:
    """Return whether this system has what HTTP workers need: anonymous files in memory and shared ports."""
    return sys.platform == "linux" and hasattr(os, "memfd_create") and hasattr(socket, "SO_REUSEPORT")


class TensorLayout(NamedTuple):
    """How many slots there are, and what is in each."""

    slots: int
    pixels: tuple[int, int, int]  # height, width, 3
    classes: int
    tokens: tuple[int, int]  # positions, channels


class TensorPool:
    """A numbered place for each row on its way. Who writes to it, and when, is agreed by messages.

    Args:
        file: of the memory, as `memory` gives it.
        shapes: the same on both sides.
    """

    def __init__(self, file: int, shapes: TensorLayout) -> None:
        memory = mmap.mmap(file, size_of(shapes))
        count, at = shapes.slots, 0
        arrays = list[NDArray[np.generic]]()
        for shape, kind in _parts(shapes):
            array = np.frombuffer(memory, kind, count * int(np.prod(shape)), at).reshape(count, *shape)
            arrays.append(array)
            at += _aligned(array.nbytes)
        self.pixels: NDArray[np.uint8]
        self.pixels, self._logits, self._tokens = arrays  # type: ignore[assignment]  # (of the types that _parts names)

    def write(self, slot: int, output: ModelOutput) -> None:
        """Leave what came of the slot's pixels."""
        self._logits[slot] = output.logits
        if output.tokens is not None:
            self._tokens[slot] = output.tokens

    def read(self, slot: int, *, return_tokens: bool) -> ModelOutput:
        """Take what was left: a copy, so that the slot can be used again."""
        return ModelOutput(self._logits[slot].copy(), self._tokens[slot].copy() if return_tokens else None)


class SharedLoad:
    """Where the process of the engines writes how things stand, for every HTTP worker to see at any time."""

    SIZE = LOAD.size

    def __init__(self, file: int) -> None:
        self._memory = mmap.mmap(file, self.SIZE)

    def write(self, load: BatcherLoad) -> None:
        """Not in one piece: who reads meanwhile sees some numbers of before, and estimates by them.

        `pack_into` would show them zeros, which it writes first.
        """
        self._memory[:] = LOAD.pack(*load, time.monotonic())

    def read(self) -> BatcherLoad:
        """How things stood a moment ago. Who has not written for long is not alive."""
        *load, at = LOAD.unpack_from(self._memory)
        if time.monotonic() > at + STALE_SECONDS:
            return BatcherLoad._make(load)._replace(is_alive=False, works=False)
        return BatcherLoad._make(load)


def memory(name: str, size: int) -> int:
    """A file that is nothing but memory, which processes share by sharing its descriptor."""
    file = os.memfd_create(name)
    try:
        os.ftruncate(file, size)
    except OSError:
        os.close(file)
        raise
    return file


def shared(name: str, value: object) -> int:
    """Return a file in memory that holds a picklable value; its arrays are not copied by processes that read it."""
    buffers = list[pickle.PickleBuffer]()
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(pickled), *(buffer.raw() for buffer in buffers)]
    lengths = struct.pack(f"={1 + len(parts)}Q", len(parts), *map(len, parts))
    file, at = memory(name, _aligned(len(lengths)) + sum(_aligned(len(part)) for part in parts)), 0
    for part in (memoryview(lengths), *parts):
        for begin in range(0, len(part), PIECE):
            os.pwrite(file, part[begin : begin + PIECE], at + begin)
        at += _aligned(len(part))
    return file


def read_shared(file: int) -> Any:
    """Return the value that `shared` has written. Its arrays are read-only."""
    content = memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_READ))
    (count,) = struct.unpack_from("=Q", content)
    lengths = struct.unpack_from(f"={count}Q", content, 8)
    at, parts = _aligned(8 + 8 * count), list[memoryview]()
    for length in lengths:
        parts.append(content[at : at + length])
        at += _aligned(length)
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 (from the process that started this one)


def size_of(shapes: TensorLayout) -> int:
    """Bytes of all slots."""
    return sum(_aligned(shapes.slots * int(np.prod(shape)) * np.dtype(kind).itemsize) for shape, kind in _parts(shapes))


def _parts(shapes: TensorLayout) -> list[tuple[tuple[int, ...], type[np.generic]]]:
    return [(shapes.pixels, np.uint8), ((shapes.classes,), np.float32), (shapes.tokens, np.float32)]


def _aligned(size: int) -> int:
    return -(-size // LINE) * LINE
