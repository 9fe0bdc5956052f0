"""Candidates in separate processes, measured in interleaved rounds.

Disturbances of the machine affect all candidates of a round. Costs are therefore compared within a
round, and the median of the rounds counts.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple, TypeVar

# Runs one batch of this size.
Run = Callable[[int], object]

# Default of the minimum of images that a candidate runs in a round. One more batch runs first and
# does not count.
IMAGES = 8

T = TypeVar("T")


class Cost(NamedTuple):
    """Milliseconds per image."""

    wall: float
    cpu: float  # user and system, all threads


class Spread(NamedTuple):
    """Median and quartiles of the rounds."""

    median: float
    low: float
    high: float


class Result(NamedTuple):
    """Cost of a candidate, absolute and relative to a reference."""

    wall: Spread
    cpu: Spread
    wall_ratio: Spread
    cpu_ratio: Spread


class CandidateProcess:
    """A process that runs batches on request, and sleeps otherwise."""

    def __init__(self, make: Callable[[], Run]) -> None:
        """Start the process, which calls `make`: a function of a module, or a `partial` of one."""
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, child_pipe), daemon=True)
        self._process.start()
        child_pipe.close()  # so that the end of the process closes the pipe

    def cost(self, size: int, images: int = IMAGES, timeout_s: float | None = None) -> Cost:
        """Return the median cost of an image, over at least `images` images in batches of this size.

        Raises:
            EOFError: the process has ended; its traceback was printed.
            TimeoutError: it took longer than `timeout_s`; the process is terminated.
        """
        try:
            self._pipe.send((size, images))
            if not self._pipe.poll(timeout_s):
                self._process.terminate()
                raise TimeoutError(f"batches of {size} took longer than {timeout_s:g} s")
            cost: Cost = self._pipe.recv()
        except ConnectionError as error:
            raise EOFError from error  # a closed pipe raises one or the other, depending on the moment
        return cost

    def close(self) -> None:
        """Close the pipe, which ends the process, and wait for its end."""
        self._pipe.close()
        self._process.join()


def interleaved(candidates: Sequence[T], number: int) -> list[T]:
    """Return the candidates in the order of this round.

    The first candidate, and the predecessor of each, change from round to round.
    """
    first = number % len(candidates)
    begins, *others = [*candidates[first:], *candidates[:first]]
    return [begins, *(reversed(others) if number % 2 else others)]


def rounds(
    candidates: Mapping[str, CandidateProcess], size: int, count: int, images: int = IMAGES
) -> dict[str, list[Cost]]:
    """Return the costs of each candidate, round by round.

    The first candidate changes: a processor is faster after a pause.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in candidates}
    for number in range(count):
        for name in interleaved(list(candidates), number):
            costs[name].append(candidates[name].cost(size, images))
    return costs


def results(costs: Mapping[str, Sequence[Cost]], reference: str) -> dict[str, Result]:
    """Return the result of each candidate. Ratios to the reference are taken within a round."""
    return {name: _result(own, costs[reference]) for name, own in costs.items()}


def _result(own: Sequence[Cost], reference: Sequence[Cost]) -> Result:
    pairs = list(zip(own, reference, strict=True))
    return Result(
        _spread([cost.wall for cost in own]),
        _spread([cost.cpu for cost in own]),
        _spread([cost.wall / other.wall for cost, other in pairs]),
        _spread([cost.cpu / other.cpu for cost, other in pairs]),
    )


def _spread(values: Sequence[float]) -> Spread:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(round(median, 3), round(low, 3), round(high, 3))


def _serve(make: Callable[[], Run], pipe: Connection) -> None:
    run = make()
    while True:
        try:
            size, images = pipe.recv()
        except EOFError:
            return
        run(size)
        costs = [_cost(run, size) for _ in range(-(-images // size))]
        pipe.send(Cost(*(statistics.median(values) for values in zip(*costs, strict=True))))


def _cost(run: Run, size: int) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    run(size)
    return Cost((time.perf_counter() - wall) / size * 1e3, (time.process_time() - cpu) / size * 1e3)
