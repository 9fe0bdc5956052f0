"""Warm-up of an engine: measure each bucket, and choose the buckets that are worth their memory.

Knows neither ONNX Runtime nor devices: a function runs the batches.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial

# The runs of a bucket: at least MEASUREMENTS, and more until they took SHORT_SECONDS together.
# After LONG_SECONDS, one run is enough.
MEASUREMENTS, SHORT_SECONDS, LONG_SECONDS = 4, 0.01, 0.5

# The part of an image's cost that a bucket has to save compared with the next smaller bucket. A
# larger batch also makes its images wait longer for each other.
MIN_SAVING = 0.03

# The cost of a batch beside its run: its way to the engine's thread and back.
BATCH_SECONDS = 0.0002


def measure_buckets(
    buckets: Sequence[int], run_seconds: Callable[[int], float], *, min_runs: int, while_cheaper: bool
) -> dict[int, float]:
    """Run batches of every size in `buckets`, and return the seconds that each size takes.

    Args:
        buckets: batch sizes, in ascending order.
        run_seconds: runs a batch of this size and returns the seconds that it took.
        min_runs: runs of each size, at least.
        while_cheaper: stop at the first size at which images cost no less than those of the size
            before. This size and all larger ones are left out: they would cost memory and waiting
            for nothing.
    """
    seconds = dict[int, float]()
    for smaller, bucket in itertools.pairwise((0, *buckets)):
        measured = _fastest_run(partial(run_seconds, bucket), min_runs)
        if while_cheaper and smaller and not _is_cheaper(bucket, measured, smaller, seconds[smaller]):
            break
        seconds[bucket] = measured
    return seconds


def _fastest_run(run_seconds: Callable[[], float], min_runs: int) -> float:
    """Return the minimum of several runs.

    The first run is slow, and other processes may use the device meanwhile.
    """
    seconds = list[float]()
    while (
        len(seconds) < min_runs
        or sum(seconds) < SHORT_SECONDS
        or (len(seconds) < MEASUREMENTS and sum(seconds) < LONG_SECONDS)
    ):
        seconds.append(run_seconds())
    return min(seconds)


def _is_cheaper(size: int, seconds: float, smaller: int, smaller_seconds: float) -> bool:
    """Return whether an image costs less in batches of `size` than of the `smaller` size."""
    cost, smaller_cost = (seconds + BATCH_SECONDS) / size, (smaller_seconds + BATCH_SECONDS) / smaller
    return cost < (1 - MIN_SAVING) * smaller_cost
