"""Images sent to one server, what came of each, and what that took: closed loop for rates, open loop for latencies."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import numpy as np

from benchmarks.comparison.server import Predictions, Server
from benchmarks.load.client_pool import Crowd
from benchmarks.load.clients import Broken, closed_loop, open_loop
from benchmarks.load.images import Known
from benchmarks.load.processes import Taken, busy

OK, BUSY = 200, (429, 503)


@dataclass(frozen=True)
class Window:
    """Some seconds of a closed loop."""

    requests_per_second: float
    p50_ms: float
    cpu_ms: float  # of the server, per request
    cores: float  # that the server kept busy
    others: float  # cores that neither the server nor this side kept busy
    memory_mb: float
    caller_us: float  # CPU time of this side, per request


@dataclass
class Outcomes:
    """What came of the requests so far."""

    right: int = 0
    refused: int = 0  # told to try again: the queue was full
    wrong: int = 0  # another answer than the image's own, or an error
    lost: int = 0  # no answer
    ends: list[float] = field(default_factory=list)  # when each was answered, and how long that took, in seconds
    seconds: list[float] = field(default_factory=list)


class Traffic:
    """Requests to one server, image by image in turn."""

    def __init__(self, server: Server, crowd: Crowd, images: Sequence[Known]) -> None:
        self.outcomes = Outcomes()
        self._server, self._crowd = server, crowd
        self._asked = [Asked(server, image) for image in images]
        self._next = 0

    async def call(self, arrival: float | None = None) -> None:
        """Ask about the next image; the wait counts from its caller's arrival."""
        asked, outcomes = self._asked[self._next], self.outcomes
        self._next = (self._next + 1) % len(self._asked)
        started = arrival or time.perf_counter()
        try:
            answer = await self._crowd.ask(asked.sent)
        except (Broken, OSError):
            outcomes.lost += 1
            return
        if answer.status in BUSY:
            outcomes.refused += 1
            return
        ended = time.perf_counter()
        outcomes.ends.append(ended)
        outcomes.seconds.append(ended - started)
        if answer.status == OK and asked.is_answer(answer.body):
            outcomes.right += 1
        else:
            outcomes.wrong += 1

    async def window(self, callers: int, warm: float, seconds: float) -> Window:
        """So many callers, of whom all are busy before the window opens and after it has closed."""
        opened, closed, _ = await asyncio.gather(
            self._sample(warm), self._sample(warm + seconds), closed_loop(callers, warm + seconds, self.call)
        )
        return self._between(opened, closed)

    async def _sample(self, delay: float) -> "Sample":
        await asyncio.sleep(delay)
        return Sample(time.perf_counter(), time.process_time(), busy(), self._server.taken())

    def _between(self, opened: "Sample", closed: "Sample") -> Window:
        ends = np.array(self.outcomes.ends)
        inside = (ends >= opened.time) & (ends <= closed.time)
        # A slope, since answers come by the batch: counting them would be off by up to one batch at either end.
        rate = float(np.polyfit(ends[inside], np.arange(inside.sum()), 1)[0])
        cores = closed.since(opened)
        return Window(
            requests_per_second=rate,
            p50_ms=float(np.median(np.array(self.outcomes.seconds)[inside])) * 1e3,
            cpu_ms=cores.server / rate * 1e3,
            cores=cores.server,
            others=cores.others,
            memory_mb=closed.taken.memory / 1e6,
            caller_us=cores.own / rate * 1e6,
        )

    async def latencies(self, rate: float, seconds: float, random: Random) -> Sequence[float]:
        """Seconds that callers waited who came when they came, so many a second."""
        before = len(self.outcomes.seconds)
        await open_loop(rate, seconds, random, self.call)
        return self.outcomes.seconds[before:]


class Cores(NamedTuple):
    """How many were busy between two moments, and with whom."""

    server: float
    own: float
    others: float  # all that remains


@dataclass(frozen=True)
class Sample:
    """A moment, and the CPU seconds until then."""

    time: float
    own_seconds: float
    busy_seconds: float  # of the whole machine
    taken: Taken

    def since(self, earlier: "Sample") -> Cores:
        """Who kept how many busy."""
        seconds = self.time - earlier.time
        server = (self.taken.cpu_seconds - earlier.taken.cpu_seconds) / seconds
        own = (self.own_seconds - earlier.own_seconds) / seconds
        everybody = (self.busy_seconds - earlier.busy_seconds) / seconds
        # The machine is counted by its clock's ticks, processes exactly: a difference of nothing may come out negative.
        return Cores(server, own, max(0.0, everybody - server - own))


class Asked:
    """One image, as this server is asked about it, and the answers that are known to be right."""

    def __init__(self, server: Server, image: Known) -> None:
        self.sent = server.protocol.request(image.data)
        self._matches: Callable[[Predictions], bool] = image.matches if server.is_exact else image.resembles
        self._read = server.predictions
        self._right = set[bytes]()  # a few for each image: scores are rounded otherwise beside other images

    def is_answer(self, body: bytes) -> bool:
        """Whether it is this image's. One that has been seen is not read again."""
        if body in self._right:
            return True
        if not self._matches(self._read(body)):
            return False
        self._right.add(body)
        return True
