"""What it costs to refuse a request, in units of what it costs to answer it: `python -m benchmarks.behavior.refusal`.

CPU time of the service's process, by `/proc`, per request, for digits (PNG of 32×32) and photos (JPEG of 500×375).
First some callers are answered; then the engine is held, the queue fills up, and whoever comes is refused. A held
engine takes no CPU time, so what is measured is refusing alone. Every refusal has to say when to try again.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import uvloop

from benchmarks.load.clients import Callers, closed_loop, request
from benchmarks.load.images import noise, photo
from benchmarks.load.record import record
from benchmarks.load.served import Served, metrics
from tests.chaos import broken_engine

QUEUE = 16
OPTIONS = ["--max-queue-size", str(QUEUE), "--max-client-batch-size", str(QUEUE), "--max-decode-queue-size", str(QUEUE)]
CALLERS = 8
"""At once: fewer than the queue takes, so that nobody is refused before it is full."""

SECONDS = 5.0
HOLD_SECONDS = SECONDS + 3
"""Time for the queue to fill, and some to spare."""


@dataclass(frozen=True)
class Cost:
    """CPU milliseconds of one request."""

    served_ms: float
    refused_ms: float
    ratio: float
    refused: int  # requests
    without_retry_after: int


class Bench:
    """A service whose engine can be held."""

    def __init__(self, served: Served, order: Path) -> None:
        self._served, self._order = served, order
        self._callers = Callers(served.address)
        self._silent = 0  # refusals that did not say when to try again

    async def cost(self, image: bytes) -> Cost:
        """Of answering this image, and of refusing it."""
        sent = request("/classify", image)
        await self._milliseconds(sent, "200")  # warm
        served, _ = await self._milliseconds(sent, "200")
        waiting = await self._fill(sent)
        refused, count = await self._milliseconds(sent, "429 overloaded")
        await asyncio.gather(*waiting)
        return Cost(round(served, 3), round(refused, 3), round(refused / served, 3), count, self._silent)

    async def _milliseconds(self, sent: bytes, expected: str) -> tuple[float, int]:
        """Per request, and how many there were.

        Raises:
            RuntimeError: there were other answers than those that were to be measured.
        """
        outcomes = Counter[str]()

        async def call() -> None:
            reply = await self._callers.ask(sent)
            outcomes[reply.name] += 1
            self._silent += reply.status == 429 and "retry-after" not in reply.headers  # noqa: PLR2004 (too many requests)

        before = self._served.usage().cpu_seconds
        await closed_loop(CALLERS, SECONDS, call)
        seconds = self._served.usage().cpu_seconds - before
        if outcomes.keys() != {expected}:
            raise RuntimeError(f"there was to be nothing but {expected}: {dict(outcomes)}")
        return seconds / outcomes.total() * 1e3, outcomes.total()

    async def _fill(self, sent: bytes) -> Sequence[asyncio.Task[object]]:
        """Hold the engine and fill the queue; those who wait in it."""
        broken_engine.give(f"hang {HOLD_SECONDS}", self._order)
        waiting: list[asyncio.Task[object]] = []
        while self._order.exists() or (await metrics(self._callers))["swin_queue_depth"] < QUEUE:
            waiting += [asyncio.create_task(self._callers.ask(sent)) for _ in range(2)]
            await asyncio.sleep(0.02)  # so that they are decoded: more at once would be refused there
        return waiting


async def measure(images: Mapping[str, bytes], options: Sequence[str]) -> dict[str, Cost]:
    """By kind of image."""
    with tempfile.TemporaryDirectory() as folder:
        order = Path(folder) / "order"
        variable = {broken_engine.VARIABLE: str(order)}
        served = Served(*OPTIONS, *options, module="tests.chaos.broken_engine", **variable)
        try:
            bench = Bench(served, order)
            return {name: await bench.cost(image) for name, image in images.items()}
        finally:
            served.stop()


def main() -> int:
    """Returns 0, or 1 if somebody was refused without a word on when to try again."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.behavior.refusal", description=__doc__)
    parser.add_argument("--bundle", help="instead of the demonstration's")
    asked = parser.parse_args()
    images = {"digit": noise(Random(0)), "photo": photo(500, 375, Random(0))}
    costs = uvloop.run(measure(images, ["--bundle", asked.bundle] if asked.bundle else []))
    print("image    served ms   refused ms   ratio   refused   without Retry-After")
    for name, cost in costs.items():
        print("{:8}{:10.2f}{:13.3f}{:8.3f}{:10}{:22}".format(name, *asdict(cost).values()))
    figures = {name: asdict(cost) for name, cost in costs.items()}
    record("refusal", {"bundle": Path(asked.bundle or "demo").name, **figures})
    return int(any(cost.without_retry_after for cost in costs.values()))


if __name__ == "__main__":
    sys.exit(main())
