"""Contestants, each in a process of its own, run in turns: what one costs in units of another.

Whatever else the machine does meets all of them, so what is compared is the same round, and the median of the rounds.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple, TypeVar

Run = Callable[[int], object]
"""Runs one batch of so many images."""

IMAGES = 8
"""Of a contestant in a round, at least, unless told otherwise; the median of its batches counts, and one more goes
before them."""

Anybody = TypeVar("Anybody")


class Cost(NamedTuple):
    """Milliseconds for one image."""

    wall: float
    cpu: float  # user and system, all threads


class Spread(NamedTuple):
    """The median of the rounds, and what the middle half of them is between."""

    median: float
    low: float
    high: float


class Standing(NamedTuple):
    """What a contestant cost, and how many times as much that is as another's."""

    wall: Spread
    cpu: Spread
    wall_ratio: Spread
    cpu_ratio: Spread


class Contestant:
    """A process that runs batches when it is told to, and waits asleep otherwise."""

    def __init__(self, make: Callable[[], Run]) -> None:
        """`make` is called in the process; it must be a function of a module, or a `partial` of one."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_obey, args=(make, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is noticed

    def cost(self, size: int, images: int = IMAGES, patience: float | None = None) -> Cost:
        """Of an image in batches of this size, so many images at least.

        Raises:
            EOFError: the process has ended; its traceback is on the screen.
            TimeoutError: it took longer than `patience` seconds, and was ended.
        """
        try:
            self._pipe.send((size, images))
            if not self._pipe.poll(patience):
                self._process.terminate()
                raise TimeoutError(f"no batch of {size} was run in {patience:g} s")
            cost: Cost = self._pipe.recv()
        except ConnectionError as error:
            raise EOFError from error  # it depends on the moment which of them it is
        return cost

    def close(self) -> None:
        """Let it end."""
        self._pipe.close()
        self._process.join()


def in_turn(everybody: Sequence[Anybody], number: int) -> list[Anybody]:
    """All of them, in the order of this round: nobody always begins, and nobody always follows the same one."""
    first = number % len(everybody)
    begins, *others = [*everybody[first:], *everybody[:first]]
    return [begins, *(reversed(others) if number % 2 else others)]


def rounds(contestants: Mapping[str, Contestant], size: int, count: int, images: int = IMAGES) -> dict[str, list[Cost]]:
    """Everybody's cost in each round. Who begins, changes: after a pause a processor is faster."""
    costs: dict[str, list[Cost]] = {name: [] for name in contestants}
    for number in range(count):
        for name in in_turn(list(contestants), number):
            costs[name].append(contestants[name].cost(size, images))
    return costs


def results(costs: Mapping[str, Sequence[Cost]], against: str) -> dict[str, Standing]:
    """Everybody's, by name. Ratios are taken within a round."""
    return {name: _standing(own, costs[against]) for name, own in costs.items()}


def _standing(own: Sequence[Cost], others: Sequence[Cost]) -> Standing:
    pairs = list(zip(own, others, strict=True))
    return Standing(
        _spread([cost.wall for cost in own]),
        _spread([cost.cpu for cost in own]),
        _spread([ours.wall / theirs.wall for ours, theirs in pairs]),
        _spread([ours.cpu / theirs.cpu for ours, theirs in pairs]),
    )


def _spread(values: Sequence[float]) -> Spread:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(round(median, 3), round(low, 3), round(high, 3))


def _obey(make: Callable[[], Run], orders: Connection) -> None:
    run = make()
    while True:
        try:
            size, images = orders.recv()
        except EOFError:
            return
        run(size)
        costs = [_cost(run, size) for _ in range(-(-images // size))]
        orders.send(Cost(*(statistics.median(values) for values in zip(*costs, strict=True))))


def _cost(run: Run, size: int) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    run(size)
    return Cost((time.perf_counter() - wall) / size * 1e3, (time.process_time() - cpu) / size * 1e3)
