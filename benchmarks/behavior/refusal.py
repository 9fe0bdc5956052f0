"""Cost of a refused request, relative to a served one: `python -m benchmarks.behavior.refusal`.

Measures the CPU time of the service process in `/proc`, per request, for digits (PNG of 32×32) and
photos (JPEG of 500×375). First, requests are served. Then a fault injection blocks the engine, the
queue fills up, and all further requests are refused. A blocked engine uses no CPU time, so that only
the refusals are measured. Each refusal must have a `Retry-After` header.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from random import Random

import uvloop

from app.load.client_pool import request
from app.load.loops import closed_loop
from benchmarks.load.clients import ConnectionPool
from benchmarks.load.images import noise, photo
from benchmarks.load.record import record
from benchmarks.load.served import Served, metrics
from tests.chaos import broken_engine

QUEUE = 16
OPTIONS = ["--max-queue-size", str(QUEUE), "--max-client-batch-size", str(QUEUE), "--max-decode-queue-size", str(QUEUE)]

# Concurrent clients: fewer than the queue holds, so that no request is refused before it is full.
CLIENTS = 8

# Length of a measurement, and of the time for which the engine is blocked. The queue fills in
# between, in less than 3 s.
SECONDS = 5.0
BLOCK_SECONDS = SECONDS + 3


@dataclass(frozen=True)
class Cost:
    """CPU milliseconds of one request."""

    served_ms: float
    refused_ms: float
    ratio: float
    refused: int  # refused requests
    without_retry_after: int


class Bench:
    """A service with an engine that can be blocked."""

    def __init__(self, served: Served, order: Path) -> None:
        self._served, self._order = served, order
        self._pool = ConnectionPool(served.address)
        self._without_retry_after = 0

    async def cost(self, image: bytes) -> Cost:
        """Return the cost of serving this image, and of refusing it."""
        sent = request("/classify", image)
        await self._milliseconds(sent, "200")  # warm-up
        served, _ = await self._milliseconds(sent, "200")
        waiting = await self._fill(sent)
        refused, count = await self._milliseconds(sent, "429 overloaded")
        await asyncio.gather(*waiting)
        return Cost(round(served, 3), round(refused, 3), round(refused / served, 3), count, self._without_retry_after)

    async def _milliseconds(self, sent: bytes, expected: str) -> tuple[float, int]:
        """Return the CPU milliseconds of a request, and the number of requests.

        Raises:
            RuntimeError: there were other responses than the expected ones.
        """
        outcomes = Counter[str]()

        async def call() -> None:
            reply = await self._pool.ask(sent)
            outcomes[reply.name] += 1
            is_refusal = reply.status == HTTPStatus.TOO_MANY_REQUESTS
            self._without_retry_after += is_refusal and "retry-after" not in reply.headers

        before = self._served.usage().cpu_seconds
        await closed_loop(CLIENTS, SECONDS, call)
        seconds = self._served.usage().cpu_seconds - before
        if outcomes.keys() != {expected}:
            raise RuntimeError(f"expected only {expected}, received {dict(outcomes)}")
        return seconds / outcomes.total() * 1e3, outcomes.total()

    async def _fill(self, sent: bytes) -> Sequence[asyncio.Task[object]]:
        """Block the engine and fill the queue. Return the requests that wait."""
        broken_engine.inject(f"hang {BLOCK_SECONDS}", self._order)
        waiting: list[asyncio.Task[object]] = []
        while self._order.exists() or (await metrics(self._pool))["swin_queue_depth"] < QUEUE:
            waiting += [asyncio.create_task(self._pool.ask(sent)) for _ in range(2)]
            await asyncio.sleep(0.02)  # time for decoding: more requests at once would fill the decode queue
        return waiting


async def measure(images: Mapping[str, bytes], options: Sequence[str]) -> dict[str, Cost]:
    """Return the costs of each kind of image."""
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
    """Measure, print and record. Return 1 if a refusal had no `Retry-After` header."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.behavior.refusal", description=__doc__)
    parser.add_argument("--bundle", metavar="DIR", help="bundle to serve (default: the demonstration)")
    args = parser.parse_args()
    images = {"digit": noise(Random(0)), "photo": photo(500, 375, Random(0))}
    costs = uvloop.run(measure(images, ["--bundle", args.bundle] if args.bundle else []))
    print("image    served ms   refused ms   ratio   refused   without Retry-After")
    for name, cost in costs.items():
        print("{:8}{:10.2f}{:13.3f}{:8.3f}{:10}{:22}".format(name, *asdict(cost).values()))
    figures = {name: asdict(cost) for name, cost in costs.items()}
    record("refusal", {"bundle": Path(args.bundle or "demo").name, **figures})
    return int(any(cost.without_retry_after for cost in costs.values()))


if __name__ == "__main__":
    sys.exit(main())
