"""The pipeline of offline work: decode ahead of the engines, run batches, return results in order.

A window is a batch's worth of consecutive items. Threads decode windows while the engines run
earlier ones, so the engines do not wait for images. An item that cannot be decoded leaves its place
in the batch empty: which images a batch has depends on positions only. So a run that begins at a
window computes the same as a run that began earlier.

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

# Windows that are decoded, or being decoded, in front of the engines: one is ready when an engine becomes free, and
# the next one is on its way.
WINDOWS_AHEAD = 2

# Threads that have the images of a window ready and wait for an engine, so that an engine that becomes free waits for
# as little Python code as possible: other threads hold the interpreter lock.
WAITING = 1


@dataclass(frozen=True)
class Window(Generic[Item, Output]):
    """Consecutive items with their results."""

    items: Sequence[Item]
    results: Sequence[Output | str]  # of each item: the output, or the sentence that says why there is none


def run_windows(
    items: Iterable[Item], decode: Decode[Item], runs: Sequence[Run[Output]], *, batch: int, threads: int
) -> Generator[Window[Item, Output], None, None]:
    """Yield the windows in the order of the items.

    At most `len(runs) + WINDOWS_AHEAD` windows are in memory beside the one that is yielded. If the
    caller closes the iterator, the runs in progress end first.

    Args:
        items: what `decode` takes. Items are taken in the thread of the caller.
        decode: called in `threads` threads.
        runs: one function for each engine; each runs one window at a time.
        batch: items in a window. The last window can have fewer.
        threads: threads that decode.

    Raises:
        Exception: any error of `items`, of `decode` or of a run.
    """
    free = SimpleQueue[Run[Output]]()
    for run in runs:
        free.put(run)
    engines = ThreadPoolExecutor(len(runs) + WAITING, thread_name_prefix="engine")
    decoders = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    pending = deque[Future[Window[Item, Output]]]()
    try:
        for window in _windows(items, batch):
            parts = [decoders.submit(_decode_all, decode, part) for part in _parts(window, threads)]
            pending.append(engines.submit(_run, window, parts, free))
            if len(pending) >= len(runs) + WINDOWS_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for pool in (engines, decoders):
            pool.shutdown(cancel_futures=True)


def _windows(items: Iterable[Item], size: int) -> Iterator[Sequence[Item]]:
    rest = iter(items)
    while window := list(itertools.islice(rest, size)):
        yield window


def _parts(window: Sequence[Item], threads: int) -> Iterator[Sequence[Item]]:
    """Split a window, so that all threads decode it. A future for each image would cost as much as a small image."""
    size = -(-len(window) // threads)
    return (window[first : first + size] for first in range(0, len(window), size))


def _decode_all(decode: Decode[Item], items: Sequence[Item]) -> list[Pixels | str]:
    return [decode(item) for item in items]


def _run(
    window: Sequence[Item], parts: Sequence[Future[list[Pixels | str]]], free: SimpleQueue[Run[Output]]
) -> Window[Item, Output]:
    decoded = [each for part in parts for each in part.result()]
    images = [each for each in decoded if not isinstance(each, str)]
    run = free.get()
    try:
        outputs = iter(run(images) if images else ())
    finally:
        free.put(run)
    return Window(window, [each if isinstance(each, str) else next(outputs) for each in decoded])
