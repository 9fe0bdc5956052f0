"""Windows of load on a service process, with its CPU time and the CPU time of other programs. Knows no candidate."""

import contextlib
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, repeat
from random import Random
from typing import Protocol

from app.load.cpu_times import CpuTimes
from app.load.garbage import no_collections
from app.load.target import Target
from app.load.windows import Load, Window
from app.system.cpus import allowed_cpus
from app.system.ports import HOST
from app.system.processes import cpu_seconds
from app.tuning.objective import Objective, percentile_ms
from app.tuning.service_process import ServiceProcess

# Seconds of load before a window: connections open, and caches fill.
WARM_UP_SECONDS = 0.3

# Clients of the generator, unless the service accepts fewer connections. More requests at once wait for one of them,
# which counts as latency.
MAX_CLIENTS = 512

# A request is given up after this multiple of the latency, and after at least so many seconds.
TIMEOUT_FACTOR, MIN_TIMEOUT_SECONDS = 4, 1.0

# The number of requests from which on the percentile of a window is taken as certain.
ENOUGH_REQUESTS = 400


@dataclass(frozen=True)
class Measurement:
    """The figures of one window. Latencies count from the arrival, and late requests are in them."""

    rate: float  # requests per second that were offered; the rate of answers for one client
    answered: float  # requests per second with 200
    requests: int
    refused: int
    lost: int  # failed, or without an answer
    share_in_time: float
    p50_ms: float
    p99_ms: float
    latency_ms: float  # the percentile of the objective
    cpu_ms: float  # of the service, for an answered request
    generator_ms: float  # CPU time of the generator, likewise
    noise: float  # the share of the CPUs of this process that neither the service nor the generator took
    holds: bool


def in_time(windows: Sequence[Measurement]) -> tuple[int, int]:
    """Return how many requests of these windows were in time, and how many there were."""
    return sum(round(each.share_in_time * each.requests) for each in windows), sum(each.requests for each in windows)


@dataclass(frozen=True)
class Traffic:
    """The requests of all meters, and their limits."""

    requests: Sequence[bytes]  # one for each image; they are in memory once
    objective: Objective
    clients: int  # at once; further requests wait for one of them


def traffic(images: Sequence[bytes], key: str | None, objective: Objective, max_connections: int) -> Traffic:
    """Return the traffic of these images, for services that accept so many connections."""
    # Services differ in their port. They accept any name of a host, and answer all names alike.
    target = Target(f"http://{HOST}", key)
    return Traffic([target.classify(image) for image in images], objective, min(MAX_CLIENTS, max_connections))


class Meter(Protocol):
    """Measures one service."""

    async def open(self, rate: float, seconds: float) -> Measurement: ...

    async def alone(self, seconds: float) -> Measurement: ...


class ServiceMeter:
    """Measures one service process.

    Args:
        service: the process.
        traffic: the requests. Each window goes on where the one before has ended.
        random: of the arrivals.
    """

    def __init__(self, service: ServiceProcess, traffic: Traffic, random: Random) -> None:
        self._service, self._traffic, self._random = service, traffic, random
        self._requests = cycle(traffic.requests)

    async def open(self, rate: float, seconds: float) -> Measurement:
        """Measure an open loop: requests arrive as a Poisson process of this rate."""
        return await self._measure(self._requests, lambda load: load.open(rate, seconds, self._random, WARM_UP_SECONDS))

    async def alone(self, seconds: float) -> Measurement:
        """Measure a single client, which sends one request at a time."""
        return await self._measure(self._requests, lambda load: load.closed(1, seconds, WARM_UP_SECONDS))

    async def http(self, clients: int, seconds: float) -> Measurement:
        """Measure requests without an image, of several clients."""
        health = repeat(self._service.target.get("/health/live"))
        return await self._measure(health, lambda load: load.closed(clients, seconds, WARM_UP_SECONDS))

    async def _measure(self, requests: Iterator[bytes], run: Callable[[Load], Awaitable[Window]]) -> Measurement:
        objective = self._traffic.objective
        self._service.check()
        pool = self._service.target.pool(self._traffic.clients)
        timeout = max(TIMEOUT_FACTOR * objective.seconds, MIN_TIMEOUT_SECONDS)
        with no_collections(), contextlib.closing(pool):  # a collection would count as CPU time of a window
            before = self._cpu_times()
            window = await run(Load(pool, requests, timeout))
            used = self._cpu_times().since(before)
        self._service.check()
        return measurement(window, objective, used)

    def _cpu_times(self) -> CpuTimes:
        # The service may run on the same CPUs as this process. Work on others does not disturb it.
        return CpuTimes.now(cpu_seconds(self._service.pid), allowed_cpus())


def measurement(window: Window, objective: Objective, used: CpuTimes) -> Measurement:
    """Return the figures of a window. `used` are the CPU times of the window and its warm-up."""
    total, ok = sum(window.counts), window.ok_with_warm_up
    return Measurement(
        rate=window.requests_per_second if window.offered_per_second is None else window.offered_per_second,
        answered=window.requests_per_second,
        requests=total,
        refused=window.counts.refused,
        lost=window.counts.failed + window.counts.lost,
        share_in_time=window.share_within(objective.seconds),
        p50_ms=percentile_ms(window, 50),
        p99_ms=percentile_ms(window, 99),
        latency_ms=objective.latency_ms(window),
        cpu_ms=used.service / ok * 1e3 if ok else math.nan,
        generator_ms=used.generator / ok * 1e3 if ok else math.nan,
        noise=used.other_cores / len(allowed_cpus()),
        holds=objective.is_met_by(window),
    )
