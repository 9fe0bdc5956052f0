"""Admission: whether the batcher accepts one more image.

Computes the answer from a few numbers, which may come from another process. Knows no queue.
"""

import math
import time
from typing import NamedTuple

from app.errors import DeadlineExceeded, Draining, NotReady, Overloaded

# A deadline or a timeout that never comes.
NEVER = math.inf


class BatcherLoad(NamedTuple):
    """Snapshot of the load of a batcher. Every field is a number, so that shared memory can hold it."""

    is_alive: float  # 0 or 1, like the next two
    works: float  # an engine can run a batch now, or runs one
    is_draining: float
    waiting: float  # images in the queue
    engines: float
    free_at: float  # when the first engine is expected to become free, on the clock of `time.perf_counter`


class BatcherLimits(NamedTuple):
    """Fixed limits of a batcher, and its estimates of batch times."""

    capacity: int  # images that may wait
    max_batch: int
    single_batch_seconds: float  # time of a batch of one image
    full_batch_seconds: float  # time of a batch of `max_batch` images


def admit(load: BatcherLoad, limits: BatcherLimits, *, deadline: float = NEVER, coming: int = 0) -> None:
    """Return if a batcher with this load would accept one more image.

    `coming` images are still being decoded. They count only while the queue is not empty: then the
    engines are the bottleneck.

    Raises:
        Overloaded: the queue is full, or the work ahead takes longer than the deadline allows.
        DeadlineExceeded: even an idle engine would miss the deadline.
        Draining: the batcher is shutting down.
        NotReady: the batcher has failed.
    """
    if load.is_draining:
        raise Draining
    if not load.is_alive:
        raise NotReady
    ahead = load.waiting and load.waiting + coming
    if ahead >= limits.capacity:
        raise Overloaded(seconds_until_run(load, limits, ahead))
    if deadline != NEVER:
        left = deadline - time.perf_counter() - limits.single_batch_seconds
        if left < 0:
            raise DeadlineExceeded
        if (wait := seconds_until_run(load, limits, ahead)) > left:
            raise Overloaded(wait)


def seconds_until_run(load: BatcherLoad, limits: BatcherLimits, ahead: float) -> float:
    """Estimate the seconds until an engine starts on an image that has `ahead` images before it."""
    full_batches = ahead // limits.max_batch / load.engines
    return max(load.free_at - time.perf_counter(), 0.0) + full_batches * limits.full_batch_seconds
