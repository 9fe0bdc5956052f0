"""Requests to one server: outcomes, rates and response times, and the CPU time that they take.

Closed loops measure rates; open loops measure response times.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import numpy as np

from app.load.client_pool import Broken, ClientPool
from app.load.cpu_times import CpuTimes
from app.load.loops import closed_loop, open_loop
from app.load.windows import rate_of
from benchmarks.comparison.server import Predictions, Server
from benchmarks.load.images import Known

OK, BUSY = 200, (429, 503)


@dataclass(frozen=True)
class Window:
    """Figures of some seconds of a closed loop."""

    requests_per_second: float
    p50_ms: float
    cpu_ms: float  # CPU time of the server, per request
    cores: float  # cores that the server kept busy
    other_cores: float  # cores that neither the server nor the clients kept busy
    memory_mb: float
    client_us: float  # CPU time of the clients, per request


@dataclass
class Outcomes:
    """Counts of the outcomes so far, and the response times."""

    right: int = 0
    refused: int = 0  # the queue was full
    wrong: int = 0  # an error, or predictions that are not those of the image
    lost: int = 0  # no response
    ends: list[float] = field(default_factory=list)  # time of each response
    seconds: list[float] = field(default_factory=list)  # response time of each


class Traffic:
    """Requests to one server, with its images in turn."""

    def __init__(self, server: Server, pool: ClientPool, images: Sequence[Known]) -> None:
        self.outcomes = Outcomes()
        self._server, self._pool = server, pool
        self._questions = [Question(server, image) for image in images]
        self._next = 0

    async def call(self, arrival: float | None = None) -> None:
        """Request the predictions of the next image. The response time counts from `arrival`."""
        question, outcomes = self._questions[self._next], self.outcomes
        self._next = (self._next + 1) % len(self._questions)
        started = arrival or time.perf_counter()
        try:
            response = await self._pool.send(question.request)
        except (Broken, OSError):
            outcomes.lost += 1
            return
        if response.status in BUSY:
            outcomes.refused += 1
            return
        ended = time.perf_counter()
        outcomes.ends.append(ended)
        outcomes.seconds.append(ended - started)
        if response.status == OK and question.is_right(response.body):
            outcomes.right += 1
        else:
            outcomes.wrong += 1

    async def window(self, clients: int, warm_up: float, seconds: float) -> Window:
        """Measure a window of a closed loop, after `warm_up` seconds of the same load."""
        opened, closed, _ = await asyncio.gather(
            self._sample(warm_up), self._sample(warm_up + seconds), closed_loop(clients, warm_up + seconds, self.call)
        )
        return self._between(opened, closed, clients)

    async def _sample(self, delay: float) -> "Sample":
        await asyncio.sleep(delay)
        usage = self._server.resource_usage()
        return Sample(CpuTimes.now(usage.cpu_seconds), usage.memory)

    def _between(self, opened: "Sample", closed: "Sample", clients: int) -> Window:
        ends = np.array(self.outcomes.ends)
        inside = (ends >= opened.times.time) & (ends <= closed.times.time)
        used = closed.times.since(opened.times)
        rate = rate_of(ends[inside], used.time, clients)
        return Window(
            requests_per_second=rate,
            p50_ms=float(np.median(np.array(self.outcomes.seconds)[inside])) * 1e3,
            cpu_ms=used.service / used.time / rate * 1e3,
            cores=used.service / used.time,
            other_cores=used.other_cores,
            memory_mb=closed.memory / 1e6,
            client_us=used.generator / used.time / rate * 1e6,
        )

    async def latencies(self, rate: float, seconds: float, random: Random) -> Sequence[float]:
        """Return the response times, in seconds, of an open loop of `rate` requests per second."""
        before = len(self.outcomes.seconds)
        await open_loop(rate, seconds, random, self.call)
        return self.outcomes.seconds[before:]


class Sample(NamedTuple):
    """CPU times of the server, of the clients and of the machine up to a moment, and the server's memory."""

    times: CpuTimes
    memory: int  # bytes


class Question:
    """The request of one image to one server, and the response bodies that are known to be right."""

    def __init__(self, server: Server, image: Known) -> None:
        self.request = server.protocol.request(image.data)
        self._matches: Callable[[Predictions], bool] = image.matches if server.is_exact else image.resembles
        self._parse = server.predictions
        # A few bodies for each image: scores round differently beside other images.
        self._right = set[bytes]()

    def is_right(self, body: bytes) -> bool:
        """Return whether the body holds the image's predictions. Parse equal bodies only once."""
        if body in self._right:
            return True
        if not self._matches(self._parse(body)):
            return False
        self._right.add(body)
        return True
