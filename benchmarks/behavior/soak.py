"""A long run at 80 % of the capacity: responses, response times and memory, minute by minute.

    python -m benchmarks.behavior.soak --minutes 15

Sends images of 32×32 to 4 megapixels, alone and in batches, as a Poisson process. Exits with 1 if a
response is lost or wrong, or if memory grows by 3 % or more after the third minute.
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

from app.load.client_pool import Broken, request
from app.load.loops import closed_loop, open_loop
from benchmarks.load.clients import FORM, ConnectionPool, Reply, form
from benchmarks.load.images import Known, learn, noise, photo
from benchmarks.load.record import record
from benchmarks.load.served import Served, metrics

# Arrival rate, as a share of the capacity.
SHARE = 0.8

# The capacity is the rate of a closed loop of 32 clients, measured for 15 s.
CAPACITY_SECONDS, CLIENTS = 15.0, 32

# Memory may grow by less than this share after this minute.
MEMORY_MINUTE, MAX_GROWTH = 3, 0.03

# Maximum of images in a batch request.
MAX_IMAGES = 16

# Numbers of different images.
DIGITS, PHOTOS = 150, 60

# Range of the sides of photos, in pixels, with a uniform distribution of the logarithm.
MIN_SIDE, MAX_SIDE = 32, 2000


@dataclass(frozen=True)
class Request:
    """The bytes of a request, and its images."""

    sent: bytes
    images: Sequence[Known]

    def judge(self, reply: Reply) -> Literal["right", "refused", "wrong"]:
        """Compare a response with the expected predictions.

        A batch counts as refused if the queue was full for some of its images.
        """
        if reply.status == HTTPStatus.TOO_MANY_REQUESTS:
            return "refused"
        body = reply.json()
        results = body.get("results", [body])
        accepted = [
            (image, result) for image, result in zip(self.images, results, strict=False) if not _is_refused(result)
        ]
        if len(results) != len(self.images) or not all(
            image.matches(result.get("predictions", ())) for image, result in accepted
        ):
            return "wrong"
        return "right" if len(accepted) == len(results) else "refused"


def _is_refused(result: Mapping[str, Any]) -> bool:
    return bool(result.get("error", {}).get("code") == "overloaded")


@dataclass(frozen=True)
class Minute:
    """Figures of one minute: a line of the table."""

    minute: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_request: float
    rss_mib: float
    queue_depth: float  # at the end of the minute


class Traffic:
    """Requests in a random order, and their outcomes."""

    def __init__(self, pool: ConnectionPool, images: Sequence[Known], random: Random) -> None:
        self.seconds: list[float] = []  # response times, from arrival to response
        self.refused, self.lost, self.wrong = 0, 0, 0
        self.pool, self.random = pool, random
        self._requests = [self._single(random.choice(images)) for _ in range(200)]
        self._requests += [self._batch(random.choices(images, k=random.randint(1, MAX_IMAGES))) for _ in range(20)]

    async def call(self, arrival: float | None = None) -> None:
        """Send one of the requests. The response time counts from `arrival`."""
        chosen, started = self.random.choice(self._requests), arrival or time.perf_counter()
        try:
            reply = await self.pool.ask(chosen.sent)
        except (Broken, OSError):
            self.lost += 1
            return
        self.seconds.append(time.perf_counter() - started)
        verdict = chosen.judge(reply)
        self.refused += verdict == "refused"
        self.wrong += verdict == "wrong"

    def _single(self, image: Known) -> Request:
        return Request(request("/classify", image.data), [image])

    def _batch(self, images: Sequence[Known]) -> Request:
        return Request(request("/classify/batch", form("files", [each.data for each in images]), headers=FORM), images)


async def soak(minutes: int, seed: int, options: Sequence[str]) -> int:
    """Measure the capacity, then run below it.

    Print and record the figures. Return the exit code.
    """
    served, random = Served(*options), Random(seed)
    try:
        pool = ConnectionPool(served.address)
        images = await learn(pool, [*(noise(random) for _ in range(DIGITS)), *_photos(random)])
        traffic = Traffic(pool, images, random)
        await closed_loop(CLIENTS, CAPACITY_SECONDS, traffic.call)
        capacity = len(traffic.seconds) / CAPACITY_SECONDS
        print(f"{len(images)} images; {capacity:.0f} requests/s at most; continuing at {SHARE:.0%} of that rate")
        print("minute  requests/s   p50 ms   p99 ms   CPU ms/request   RSS MiB   queue")
        lines = [await _minute(served, traffic, SHARE * capacity, number + 1) for number in range(minutes)]
    finally:
        served.stop()
    return _judge(lines, traffic, capacity)


def _photos(random: Random) -> Sequence[bytes]:
    sides = [[round(MIN_SIDE * (MAX_SIDE / MIN_SIDE) ** random.random()) for _ in range(2)] for _ in range(PHOTOS)]
    return [photo(width, height, random) for width, height in sides]


async def _minute(served: Served, traffic: Traffic, rate: float, number: int) -> Minute:
    traffic.seconds.clear()
    before, started = served.usage(), time.perf_counter()
    await open_loop(rate, 60, traffic.random, traffic.call)
    after, seconds = served.usage(), time.perf_counter() - started
    p50, p99 = np.percentile(traffic.seconds, [50, 99]) * 1e3
    responses = len(traffic.seconds)
    cpu = (after.cpu_seconds - before.cpu_seconds) / responses * 1e3
    depth = (await metrics(traffic.pool))["swin_queue_depth"]
    line = Minute(number, responses / seconds, p50, p99, cpu, after.rss / 2**20, depth)
    print("{:6}{:12.1f}{:9.1f}{:9.1f}{:17.2f}{:10.1f}{:8.0f}".format(*asdict(line).values()), flush=True)
    return line


def _judge(lines: Sequence[Minute], traffic: Traffic, capacity: float) -> int:
    warm = lines[min(MEMORY_MINUTE, len(lines)) - 1]
    growth = lines[-1].rss_mib / warm.rss_mib - 1
    figures = {"lost": traffic.lost, "wrong": traffic.wrong, "refused": traffic.refused, "rss_growth": round(growth, 4)}
    print(", ".join(f"{name} {value}" for name, value in figures.items()))
    record("soak", {"capacity": round(capacity, 1), **figures, "minutes": [_rounded(line) for line in lines]})
    return int(traffic.lost > 0 or traffic.wrong > 0 or growth >= MAX_GROWTH)


def _rounded(line: Minute) -> dict[str, float]:
    return {name: round(value, 2) for name, value in asdict(line).items()}


def main() -> int:
    """Run the command. Return 1 if a response was lost or wrong, or if memory grew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.behavior.soak", description=__doc__)
    parser.add_argument("--minutes", type=int, default=15, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of images and arrivals (default: %(default)s)")
    parser.add_argument("--bundle", metavar="DIR", help="bundle to serve (default: the demonstration)")
    args = parser.parse_args()
    return uvloop.run(soak(args.minutes, args.seed, ["--bundle", args.bundle] if args.bundle else []))


if __name__ == "__main__":
    sys.exit(main())
