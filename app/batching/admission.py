"""Whether a row that came now would be taken: told from a few numbers, which may come from another process."""

import math
import time
from typing import NamedTuple

from app.errors import DeadlineExceeded, Draining, NotReady, Overloaded

NEVER = math.inf


class BatcherLoad(NamedTuple):
    """How things stand with a batcher at the moment."""

    is_alive: float  # 0 or 1, as the next two
    works: float  # an engine runs, or could run, batches now
    is_draining: float
    waiting: float  # rows in the queue
    engines: float
    free_at: float  # when the first of them is expected to be free, as a time of `time.perf_counter`


class BatcherLimits(NamedTuple):
    """What a batcher was made for."""

    capacity: int  # rows that may wait
    max_batch: int
    seconds_of_one: float  # what a batch of one row takes
    seconds_of_most: float  # and one of `max_batch`


def admit(load: BatcherLoad, limits: BatcherLimits, *, deadline: float = NEVER, coming: int = 0) -> None:
    """Return if a row that came now would be taken.

    `coming` rows are on their way here. They count if others wait already: the engines are then what is slow.

    Raises:
        Overloaded: the queue is full, or what is ahead takes longer than the deadline allows.
        DeadlineExceeded: the deadline could not even be made by an idle engine.
        Draining, NotReady: the batcher stops, or has died.
    """
    if load.is_draining:
        raise Draining
    if not load.is_alive:
        raise NotReady
    ahead = load.waiting and load.waiting + coming
    if ahead >= limits.capacity:
        raise Overloaded(seconds_until_run(load, limits, ahead))
    if deadline != NEVER:
        left = deadline - time.perf_counter() - limits.seconds_of_one
        if left < 0:
            raise DeadlineExceeded
        if (wait := seconds_until_run(load, limits, ahead)) > left:
            raise Overloaded(wait)


def seconds_until_run(load: BatcherLoad, limits: BatcherLimits, ahead: float) -> float:
    """Until an engine begins with a row that has so many before it."""
    full_batches = ahead // limits.max_batch / load.engines
    return max(load.free_at - time.perf_counter(), 0.0) + full_batches * limits.seconds_of_most
