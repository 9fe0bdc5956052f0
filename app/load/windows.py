"""Windows of load on one service: requests are counted by outcome, and the latencies of the good ones are kept.

Knows no command and no table.
"""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.load.client_pool import Broken, ClientPool
from app.load.garbage import no_collections
from app.load.loops import closed_loop, open_loop

OK, OVERLOADED = 200, frozenset({429, 503})

# The status of a request without a response.
LOST = 0

# Wait of a client after a request without a response, in seconds. A refused connection takes no time.
RETRY_SECONDS = 0.01

# A service keeps up if this share of the arrivals of a window ends within the window, but for so many requests.
KEPT_UP_SHARE, SPARE_REQUESTS = 0.9, 5

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
    requests_per_second: float  # answered with 200 within the window
    counts: Counts  # also of requests that ended after the window
    ended: int  # requests that ended within the window, with any response
    ok_with_warm_up: int  # requests that were answered with 200, also those of the warm-up
    latency_ms: dict[int, float]  # by percentile, of the requests that were answered with 200
    max_ms: float
    late_ms: float  # 99th percentile of the time by which requests of an open loop left later than they arrived
    failures: Mapping[int, int]  # the number of responses by status, of those that count as failed
    latencies: NDArray[np.float64] = field(repr=False)  # seconds, in no order

    @property
    def is_behind(self) -> bool:
        """True if requests of an open loop arrive faster than they end, so that latencies grow as long as it lasts."""
        return self.clients is None and self.ended < KEPT_UP_SHARE * sum(self.counts) - SPARE_REQUESTS

    def share_within(self, seconds: float) -> float:
        """Return the share of the requests that were answered with 200 within a time. Others are too late."""
        return float((self.latencies <= seconds).sum()) / max(sum(self.counts), 1)


class Load:
    """Requests to one service.

    Args:
        pool: clients of the service.
        requests: the bytes of one request after the other, without end.
        timeout: seconds after the end of a window, after which requests without a response are lost.
    """

    def __init__(self, pool: ClientPool, requests: Iterator[bytes], timeout: float = 30) -> None:
        self._pool, self._requests, self._timeout = pool, requests, timeout

    async def closed(self, clients: int, seconds: float, warm_up: float = 0) -> Window:
        """Measure a closed loop of concurrent clients, after `warm_up` seconds of the same load.

        A latency is the time of one request. Requests that were sent before the end and end later count, so that a
        stall at the end is not hidden. They have no part in the rate.
        """
        calls = list[_Call]()
        with no_collections():  # the loop does so, too, but later than the start
            starts = time.perf_counter() + warm_up
            await self._run(closed_loop(clients, warm_up + seconds, lambda: self._call(calls)), warm_up + seconds)
        counted = [call for call in calls if call.ended >= starts]
        inside = _ended_between(calls, starts, starts + seconds)
        ends = np.array([call.ended for call in inside if call.status == OK])
        return _window(calls, counted, len(inside), rate_of(ends, seconds, clients), clients=clients)

    async def open(self, rate: float, seconds: float, random: Random, warm_up: float = 0) -> Window:
        """Measure an open loop of `rate` requests per second, after `warm_up` seconds of the same load.

        Counts the requests that arrive within the window. A latency counts from the arrival, see `loops.py`. The
        rate is that of the responses within the window: above the capacity, it is lower than the rate of arrivals.
        """
        calls = list[_Call]()
        with no_collections():  # the loop does so, too, but later than the start
            starts = time.perf_counter() + warm_up
            await self._run(
                open_loop(rate, warm_up + seconds, random, lambda arrival: self._call(calls, arrival)),
                warm_up + seconds,
            )
        counted = [call for call in calls if call.arrived >= starts]
        inside = _ended_between(calls, starts, starts + seconds)
        return _window(calls, counted, len(inside), sum(call.status == OK for call in inside) / seconds, rate=rate)

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


def _ended_between(calls: Sequence[_Call], starts: float, ends: float) -> Sequence[_Call]:
    """Return the requests with a response that ended between two times."""
    return [call for call in calls if starts <= call.ended < ends and call.status != LOST]


def rate_of(ends: NDArray[np.float64], seconds: float, clients: int) -> float:
    """Return the responses per second of a window of so many clients, by the times of the responses.

    Responses arrive batch by batch, so their number is off by up to one batch: at most by the clients. Within this
    error, the slope of the times is more exact. A stall makes the slope wrong by more, and then the error bounds it.
    """
    times = np.sort(ends)
    if len(times) == 0 or times[0] == times[-1]:
        return len(times) / seconds
    slope = float(np.polyfit(times - times[0], np.arange(len(times)), 1)[0])
    least, most = (len(times) - clients) / seconds, (len(times) + clients) / seconds
    return min(max(slope, least), most)


def _window(
    everything: Sequence[_Call],
    calls: Sequence[_Call],
    ended: int,
    achieved: float,
    *,
    rate: float | None = None,
    clients: int | None = None,
) -> Window:
    """Return the figures of `calls`, which are those of the window, out of everything with the warm-up."""
    statuses = Counter(call.status for call in calls)
    ok, refused, lost = statuses[OK], sum(statuses[status] for status in OVERLOADED), statuses[LOST]
    latencies = np.array([call.ended - call.arrived for call in calls if call.status == OK])
    late = [call.sent - call.arrived for call in calls]
    return Window(
        offered_per_second=rate,
        clients=clients,
        requests_per_second=achieved,
        counts=Counts(ok, refused, len(calls) - ok - refused - lost, lost),
        ended=ended,
        ok_with_warm_up=sum(call.status == OK for call in everything),
        latency_ms={percentile: _percentile_ms(latencies, percentile) for percentile in PERCENTILES},
        max_ms=_percentile_ms(latencies, 100),
        late_ms=_percentile_ms(np.array(late), 99),
        failures={status: count for status, count in statuses.items() if status not in {OK, LOST} | OVERLOADED},
        latencies=latencies,
    )


def _percentile_ms(seconds: NDArray[np.float64], percentile: float) -> float:
    return float(np.percentile(seconds, percentile)) * 1e3 if len(seconds) else math.nan
