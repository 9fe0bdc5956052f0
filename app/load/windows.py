"""Windows of load on one service: requests are counted by outcome, and the latencies of the good ones are kept.

Knows no command and no table.
"""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.load.client_pool import Broken, ClientPool
from app.load.loops import closed_loop, open_loop

OK, OVERLOADED = 200, frozenset({429, 503})

# The status of a request without a response.
LOST = 0

# Wait of a client after a request without a response, in seconds. A refused connection takes no time.
RETRY_SECONDS = 0.01

# From this number of responses on, a rate is a slope.
MIN_RESPONSES_FOR_SLOPE = 10

# Percentiles of latency.
PERCENTILES = (50, 90, 95, 99)


class Counts(NamedTuple):
    """The outcomes of requests."""

    ok: int
    refused: int  # 429 or 503: the service is overloaded
    failed: int  # any other status
    lost: int  # no response: the connection failed or was refused, or the response took longer than the timeout


@dataclass(frozen=True)
class Window:
    """Figures of some seconds of load. Times are NaN if no request was answered with 200."""

    offered_per_second: float | None  # the rate of arrivals that was asked for; None for a closed loop
    clients: int | None  # concurrent clients; None for an open loop
    requests_per_second: float  # answered with 200
    counts: Counts
    latency_ms: dict[int, float]  # by percentile, of the requests that were answered with 200
    max_ms: float
    late_ms: float  # 99th percentile of the time by which requests of an open loop left later than they arrived
    failures: Mapping[int, int]  # the number of responses by status, of those that count as failed
    latencies: NDArray[np.float64] = field(repr=False)  # seconds, in no order

    def share_within(self, seconds: float) -> float:
        """Return the share of the requests that were answered with 200 within a time. Others are too late."""
        return float((self.latencies <= seconds).sum()) / max(sum(self.counts), 1)


class Load:
    """Requests to one service, which send their contents in turn.

    Args:
        pool: clients of the service.
        requests: the bytes of the requests.
        timeout: seconds after the end of a window, after which requests without a response are lost.
    """

    def __init__(self, pool: ClientPool, requests: Sequence[bytes], timeout: float = 30) -> None:
        self._pool, self._requests, self._timeout = pool, cycle(requests), timeout

    async def closed(self, clients: int, seconds: float, warm_up: float = 0) -> Window:
        """Measure a closed loop of concurrent clients, after `warm_up` seconds of the same load.

        Counts the requests that end within the window. A latency is the time of one request.
        """
        starts = time.perf_counter() + warm_up
        calls = list[_Call]()
        await self._run(closed_loop(clients, warm_up + seconds, lambda: self._call(calls)), warm_up + seconds)
        ends = starts + seconds
        # Clients whose last request is lost wait for it beyond the end.
        counted = [call for call in calls if call.ended >= starts and (call.ended < ends or call.status == LOST)]
        rate = rate_of(np.array([call.ended for call in counted if call.status == OK]), seconds)
        return _window(counted, rate, clients=clients)

    async def open(self, rate: float, seconds: float, random: Random, warm_up: float = 0) -> Window:
        """Measure an open loop of `rate` requests per second, after `warm_up` seconds of the same load.

        Counts the requests that arrive within the window. A latency counts from the arrival, see `loops.py`.
        """
        starts = time.perf_counter() + warm_up
        calls = list[_Call]()
        await self._run(
            open_loop(rate, warm_up + seconds, random, lambda arrival: self._call(calls, arrival)), warm_up + seconds
        )
        counted = [call for call in calls if call.arrived >= starts]
        return _window(counted, sum(call.status == OK for call in counted) / seconds, rate=rate)

    async def is_answered(self) -> bool:
        """Return whether one request has a response, with any status, within the timeout."""
        calls = list[_Call]()
        await self._run(self._call(calls), 0)
        return calls[0].status != LOST

    async def _run(self, loop: Awaitable[None], seconds: float) -> None:
        """Run a loop that lasts for so many seconds. Cancel the requests without a response at the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds + self._timeout):
                await loop

    async def _call(self, calls: list["_Call"], arrival: float | None = None) -> None:
        sent = time.perf_counter()
        status = LOST
        try:
            status = (await self._pool.send(next(self._requests))).status
        except (Broken, OSError):
            await asyncio.sleep(RETRY_SECONDS)
        finally:
            calls.append(_Call(sent if arrival is None else arrival, sent, time.perf_counter(), status))


class _Call(NamedTuple):
    """One request: times of `time.perf_counter`, and the status."""

    arrived: float
    sent: float
    ended: float
    status: int


def rate_of(ends: NDArray[np.float64], seconds: float) -> float:
    """Return the responses per second of a window, by the times of the responses.

    The rate is a slope: responses arrive batch by batch, so a count would be off by up to one batch at
    either end.
    """
    times = np.sort(ends)
    if len(times) < MIN_RESPONSES_FOR_SLOPE:
        return len(times) / seconds
    return float(np.polyfit(times - times[0], np.arange(len(times)), 1)[0])


def _window(calls: Sequence[_Call], achieved: float, rate: float | None = None, clients: int | None = None) -> Window:
    statuses = Counter(call.status for call in calls)
    ok, refused, lost = statuses[OK], sum(statuses[status] for status in OVERLOADED), statuses[LOST]
    latencies = np.array([call.ended - call.arrived for call in calls if call.status == OK])
    late = [call.sent - call.arrived for call in calls]
    return Window(
        offered_per_second=rate,
        clients=clients,
        requests_per_second=achieved,
        counts=Counts(ok, refused, len(calls) - ok - refused - lost, lost),
        latency_ms={percentile: _percentile_ms(latencies, percentile) for percentile in PERCENTILES},
        max_ms=_percentile_ms(latencies, 100),
        late_ms=_percentile_ms(np.array(late), 99),
        failures={status: count for status, count in statuses.items() if status not in {OK, LOST} | OVERLOADED},
        latencies=latencies,
    )


def _percentile_ms(seconds: NDArray[np.float64], percentile: float) -> float:
    return float(np.percentile(seconds, percentile)) * 1e3 if len(seconds) else math.nan
