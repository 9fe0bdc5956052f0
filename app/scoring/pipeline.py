"""The pipeline of offline work: decode ahead of the engines, run batches, return results in order.

A chunk is a batch's worth of consecutive items. Threads decode chunks while the engines run
earlier ones, so the engines do not wait for images. An item that cannot be decoded leaves its place
in the batch empty: which images a batch has depends on positions only. So a run that begins at a
chunk computes the same as a run that began earlier.

Knows neither files nor tables.
"""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

# uint8 RGB, (height, width, 3).
Pixels = NDArray[np.uint8]

Item = TypeVar("Item")
Output = TypeVar("Output")

# The pixels of an item, or the sentence that says why there are none.
Decode = Callable[[Item], Pixels | str]
# A run of the network: for each image an output, or the sentence that says why there is none.
Run = Callable[[Sequence[Pixels]], Sequence[Output | str]]

# Chunks that are decoded, or being decoded, in front of the engines: one is ready when an engine becomes free, and
# the next one is on its way.
CHUNKS_AHEAD = 2


@dataclass(frozen=True)
class Chunk(Generic[Item, Output]):
    """Consecutive items with their results."""

    items: Sequence[Item]
    results: Sequence[Output | str]  # of each item: the output, or the sentence that says why there is none


def run_chunks(
    items: Iterable[Item], decode: Decode[Item], runs: Sequence[Run[Output]], *, batch: int, threads: int
) -> Generator[Chunk[Item, Output], None, None]:
    """Yield the chunks in the order of the items.

    At most `len(runs) + CHUNKS_AHEAD` chunks are in memory beside the one that is yielded. If the
    caller closes the iterator, the runs in progress end first.

    Args:
        items: what `decode` takes. Items are taken in the thread of the caller.
        decode: called in `threads` threads.
        runs: one function for each engine; each runs one chunk at a time.
        batch: items in a chunk. The last chunk can have fewer.
        threads: threads that decode.

    Raises:
        Exception: any error of `items`, of `decode` or of a run.
    """
    free = SimpleQueue[Run[Output]]()
    for run in runs:
        free.put(run)
    engines = ThreadPoolExecutor(len(runs), thread_name_prefix="engine")
    decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    pending = deque[Future[Chunk[Item, Output]]]()
    try:
        for chunk in _chunks(items, batch):
            parts = [decoders.submit(_decode_all, decode, part) for part in _parts(chunk, threads)]
            pending.append(engines.submit(_run, chunk, parts, free))
            if len(pending) >= len(runs) + CHUNKS_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for pool in (engines, decoders):
            pool.shutdown(cancel_futures=True)


def _chunks(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    rest = iter(items)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk


def _parts(chunk: Sequence[Item], threads: int) -> Iterator[Sequence[Item]]:
    """Split a chunk, so that all threads decode it. A future for each image would cost as much as a small image."""
    size = -(-len(chunk) // threads)
    return (chunk[first : first + size] for first in range(0, len(chunk), size))


def _decode_all(decode: Decode[Item], items: Sequence[Item]) -> list[Pixels | str]:
    return [decode(item) for item in items]


def _run(
    chunk: Sequence[Item], parts: Sequence[Future[list[Pixels | str]]], free: SimpleQueue[Run[Output]]
) -> Chunk[Item, Output]:
    decoded = [each for part in parts for each in part.result()]
    images = [each for each in decoded if not isinstance(each, str)]
    run = free.get()
    try:
        outputs = iter(run(images) if images else ())
    finally:
        free.put(run)
    return Chunk(chunk, [each if isinstance(each, str) else next(outputs) for each in decoded])
