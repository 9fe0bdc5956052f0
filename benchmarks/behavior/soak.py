"""A long time at four fifths of what it can: does it answer all, rightly, as fast and in the same memory to the end?

    python -m benchmarks.behavior.soak --minutes 15

Images of 32×32 to some megapixels, alone and in batches, as they come
(Poisson). Exits with 1 if an answer is lost or wrong, or if memory grows by 3 % or more after the third minute.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from random import Random
from typing import Any, Literal

import numpy as np
import uvloop

from benchmarks.load.clients import FORM, Broken, Callers, Reply, closed_loop, form, open_loop, request
from benchmarks.load.images import Known, learn, noise, photo
from benchmarks.load.record import record
from benchmarks.load.served import Served, metrics

SHARE = 0.8
"""Of the capacity."""

CAPACITY_SECONDS, CALLERS = 15.0, 32
MEMORY_MINUTE, MAX_GROWTH = 3, 0.03
MAX_IMAGES = 16

DIGITS, PHOTOS = 150, 60
SHORTEST, LONGEST = 32, 2000
"""Sides of photos, in pixels; each octave is as frequent as the next."""


@dataclass(frozen=True)
class Request:
    """A request, and the images that it asks about."""

    sent: bytes
    images: Sequence[Known]

    def judge(self, reply: Reply) -> Literal["right", "refused", "wrong"]:
        """What the answer is, image by image: of a batch, some may have found the queue full."""
        if reply.status == HTTPStatus.TOO_MANY_REQUESTS:
            return "refused"
        answer = reply.json()
        results = answer.get("results", [answer])
        taken = [
            (image, result) for image, result in zip(self.images, results, strict=False) if not _is_refused(result)
        ]
        if len(results) != len(self.images) or not all(
            image.matches(result.get("predictions", ())) for image, result in taken
        ):
            return "wrong"
        return "right" if len(taken) == len(results) else "refused"


def _is_refused(result: Mapping[str, Any]) -> bool:
    return bool(result.get("error", {}).get("code") == "overloaded")


@dataclass(frozen=True)
class Minute:
    """A line of the table."""

    minute: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_request: float
    rss_mib: float
    queue_depth: float  # at its end


class Traffic:
    """Requests in a random order, and what came of them."""

    def __init__(self, callers: Callers, images: Sequence[Known], random: Random) -> None:
        self.seconds: list[float] = []  # from the moment a caller came to its answer
        self.refused, self.lost, self.wrong = 0, 0, 0
        self.callers, self.random = callers, random
        self._requests = [self._single(random.choice(images)) for _ in range(200)]
        self._requests += [self._batch(random.choices(images, k=random.randint(1, MAX_IMAGES))) for _ in range(20)]

    async def call(self, arrival: float | None = None) -> None:
        """Ask one of them; its wait counts from its caller's arrival."""
        asked, started = self.random.choice(self._requests), arrival or time.perf_counter()
        try:
            reply = await self.callers.ask(asked.sent)
        except (Broken, OSError):
            self.lost += 1
            return
        self.seconds.append(time.perf_counter() - started)
        verdict = asked.judge(reply)
        self.refused += verdict == "refused"
        self.wrong += verdict == "wrong"

    def _single(self, image: Known) -> Request:
        return Request(request("/classify", image.data), [image])

    def _batch(self, images: Sequence[Known]) -> Request:
        return Request(request("/classify/batch", form("files", [each.data for each in images]), headers=FORM), images)


async def soak(minutes: int, seed: int, options: Sequence[str]) -> int:
    """Find the capacity, stay below it for so long, and tell. Returns the exit code."""
    served, random = Served(*options), Random(seed)
    try:
        callers = Callers(served.address)
        images = await learn(callers, [*(noise(random) for _ in range(DIGITS)), *_photos(random)])
        traffic = Traffic(callers, images, random)
        await closed_loop(CALLERS, CAPACITY_SECONDS, traffic.call)
        capacity = len(traffic.seconds) / CAPACITY_SECONDS
        print(f"{len(images)} images; {capacity:.0f} requests/s at most, of which {SHARE:.0%} from now on")
        print("minute  requests/s   p50 ms   p99 ms   CPU ms/request   RSS MiB   queue")
        lines = [await _minute(served, traffic, SHARE * capacity, number + 1) for number in range(minutes)]
    finally:
        served.stop()
    return _judge(lines, traffic, capacity)


def _photos(random: Random) -> Sequence[bytes]:
    sides = [[round(SHORTEST * (LONGEST / SHORTEST) ** random.random()) for _ in range(2)] for _ in range(PHOTOS)]
    return [photo(width, height, random) for width, height in sides]


async def _minute(served: Served, traffic: Traffic, rate: float, number: int) -> Minute:
    traffic.seconds.clear()
    before, started = served.usage(), time.perf_counter()
    await open_loop(rate, 60, traffic.random, traffic.call)
    after, seconds = served.usage(), time.perf_counter() - started
    p50, p99 = np.percentile(traffic.seconds, [50, 99]) * 1e3
    answered = len(traffic.seconds)
    cpu = (after.cpu_seconds - before.cpu_seconds) / answered * 1e3
    depth = (await metrics(traffic.callers))["swin_queue_depth"]
    line = Minute(number, answered / seconds, p50, p99, cpu, after.rss / 2**20, depth)
    print("{:6}{:12.1f}{:9.1f}{:9.1f}{:17.2f}{:10.1f}{:8.0f}".format(*asdict(line).values()), flush=True)
    return line


def _judge(lines: Sequence[Minute], traffic: Traffic, capacity: float) -> int:
    settled = lines[min(MEMORY_MINUTE, len(lines)) - 1]
    growth = lines[-1].rss_mib / settled.rss_mib - 1
    figures = {"lost": traffic.lost, "wrong": traffic.wrong, "refused": traffic.refused, "rss_growth": round(growth, 4)}
    print(", ".join(f"{name} {value}" for name, value in figures.items()))
    record("soak", {"capacity": round(capacity, 1), **figures, "minutes": [_rounded(line) for line in lines]})
    return int(traffic.lost > 0 or traffic.wrong > 0 or growth >= MAX_GROWTH)


def _rounded(line: Minute) -> dict[str, float]:
    return {name: round(value, 2) for name, value in asdict(line).items()}


def main() -> int:
    """Returns 0, or 1 if the service did not stand it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.behavior.soak", description=__doc__)
    parser.add_argument("--minutes", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", help="instead of the demonstration's")
    asked = parser.parse_args()
    return uvloop.run(soak(asked.minutes, asked.seed, ["--bundle", asked.bundle] if asked.bundle else []))


if __name__ == "__main__":
    sys.exit(main())
