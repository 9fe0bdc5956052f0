"""Windows of load: outcomes, rates, and latencies that count from the arrival."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import repeat
from random import Random
from typing import cast

import numpy as np
import pytest
import uvloop
from numpy.typing import NDArray

from app.load.client_pool import Broken, ClientPool, Response
from app.load.loops import open_loop
from app.load.windows import Counts, Load, Window, rate_of

STALL_SECONDS = 0.3


class FakePool:
    """Clients that answer with scripted statuses in turn. A status of None is a connection that ends."""

    def __init__(self, *statuses: int | None) -> None:
        self._statuses, self.sent = statuses, 0

    async def send(self, request: bytes) -> Response:
        """Return the next response, after an iteration of the event loop."""
        assert request == b"a request"
        status = self._statuses[self.sent % len(self._statuses)]
        self.sent += 1
        await asyncio.sleep(0.001)
        if status is None:
            raise Broken("the connection ended")
        return Response(status, b"")


class StallingPool:
    """Clients of a service that answers at once, except that it stalls at the first request."""

    def __init__(self) -> None:
        self._stall: asyncio.Task[None] | None = None

    async def send(self, request: bytes) -> Response:
        """Return a response when the stall is over."""
        self._stall = self._stall or asyncio.create_task(asyncio.sleep(STALL_SECONDS))
        await self._stall
        return Response(200, request)


class SerialPool:
    """Clients of a service that needs 10 ms for each request, one after the other."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def send(self, request: bytes) -> Response:
        """Return a response when the earlier requests have theirs."""
        async with self._lock:
            await asyncio.sleep(0.01)
        return Response(200, request)


class SilentPool:
    """Clients of a service that never answers."""

    async def send(self, request: bytes) -> Response:
        """Wait for ever."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError(request)


def measured(pool: object, window: Callable[[Load], Awaitable[Window]], timeout: float = 30) -> Window:
    """Return a window of load on a pool."""

    async def measure() -> Window:
        return await window(Load(cast("ClientPool", pool), repeat(b"a request"), timeout))

    return uvloop.run(measure())


def test_outcomes_are_counted() -> None:
    """Overload is refused, other statuses are failed, and a connection that ends is a lost request."""
    window = measured(FakePool(200, 429, 503, 500, None), lambda load: load.closed(1, 0.3))

    counts = window.counts
    assert counts.ok
    assert counts.refused in range(2 * counts.ok - 2, 2 * counts.ok + 1)
    assert counts.failed in range(counts.ok - 1, counts.ok + 1)
    assert counts.lost in range(counts.ok - 1, counts.ok + 1)


def test_failures_are_counted_by_status() -> None:
    """Failed responses are counted by status. Good, refused and lost requests do not count."""
    window = measured(FakePool(200, 429, 503, 500, 415, 415, None), lambda load: load.closed(1, 0.3))

    assert set(window.failures) == {415, 500}
    assert sum(window.failures.values()) == window.counts.failed


@pytest.mark.parametrize(("status", "is_answered"), [(200, True), (429, True), (500, True), (None, False)])
def test_a_service_is_answering_if_it_has_any_response(status: int | None, is_answered: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    """One request is enough, whatever its status."""

    async def ask() -> bool:
        return await Load(cast("ClientPool", FakePool(status)), repeat(b"a request")).is_answered()

    assert uvloop.run(ask()) == is_answered


def test_a_silent_service_is_not_answering() -> None:
    """The request is given up at the timeout."""

    async def ask() -> bool:
        return await Load(cast("ClientPool", SilentPool()), repeat(b"a request"), 0.05).is_answered()

    assert not uvloop.run(ask())


def test_no_request_leaves_before_its_arrival() -> None:
    """Timers of uvloop can end early. Then the arrival is earlier, too, so that no latency is too short."""
    early = list[float]()

    async def call(arrival: float) -> None:
        early.append(arrival - time.perf_counter())

    uvloop.run(open_loop(1000, 0.5, Random(0), call))

    assert len(early) > 100
    assert max(early) <= 0


def test_a_window_without_a_good_response_has_no_latency() -> None:
    """Latencies are those of responses with 200. Without one, they are not a number."""
    window = measured(FakePool(500), lambda load: load.closed(1, 0.1))

    assert np.isnan([window.max_ms, *window.latency_ms.values()]).all()
    assert window.requests_per_second == 0


def test_latencies_of_an_open_loop_include_the_time_of_a_stall() -> None:
    """All requests that arrive during a stall are slow, and not only the one that meets it."""
    window = measured(StallingPool(), lambda load: load.open(200, 0.4, Random(1)))

    slow = (window.latencies > STALL_SECONDS / 3).sum()
    assert window.max_ms > STALL_SECONDS * 900
    assert slow > 20


def test_a_closed_loop_hides_a_stall() -> None:
    """Its client waits, and sends nothing during the stall: of many requests, only the one that meets it is slow."""
    window = measured(StallingPool(), lambda load: load.closed(1, 0.4))

    slow = window.latencies > STALL_SECONDS * 0.9
    assert slow.any()
    assert slow.mean() < 0.01  # a busy machine can stall, too


@pytest.mark.parametrize("loop", [lambda load: load.closed(3, 0.05), lambda load: load.open(200, 0.05, Random(1))])
def test_requests_without_a_response_are_lost_at_the_timeout(loop: Callable[[Load], Awaitable[Window]]) -> None:
    """A service that does not answer ends no window late, and none of its requests is forgotten."""
    counts = measured(SilentPool(), loop, timeout=0.1).counts

    assert counts.lost > 0
    assert counts == Counts(0, 0, 0, counts.lost)


def test_warm_up_is_not_counted() -> None:
    """Requests that arrive before the window count in no figure: here, the stall."""
    window = measured(StallingPool(), lambda load: load.open(200, 0.3, Random(1), warm_up=STALL_SECONDS))

    assert window.latencies.min() < STALL_SECONDS / 3
    assert sum(window.counts) < 90  # of 120 requests in all


@pytest.mark.parametrize(
    "loop",
    [
        lambda load: load.closed(2, 0.2, warm_up=0.2),
        lambda load: load.open(200, 0.2, Random(1), warm_up=0.2),
    ],
    ids=["closed", "open"],
)
def test_all_good_responses_are_counted_with_the_warm_up(loop: Callable[[Load], Awaitable[Window]]) -> None:
    """CPU times that are read before and after the load cover all of them. Other responses do not count."""
    pool = FakePool(200, 200, 429)
    window = measured(pool, loop)

    assert window.ok_with_warm_up == pytest.approx(pool.sent * 2 / 3, abs=1)
    assert window.ok_with_warm_up > window.counts.ok


def test_the_offered_rate_is_the_rate_of_arrivals() -> None:
    """Arrivals of a Poisson process are as many as rate and length say, whatever the responses are."""
    window = measured(FakePool(429), lambda load: load.open(400, 1, Random(1)))

    assert sum(window.counts) == pytest.approx(400, abs=80)  # four standard deviations
    assert window.offered_per_second == 400


def test_the_share_within_a_time_counts_bad_responses_as_late() -> None:
    """A refused request is not within the time, however fast its refusal is."""
    window = measured(FakePool(200, 429), lambda load: load.closed(1, 0.2))

    assert window.share_within(30) == pytest.approx(0.5, abs=0.1)


def test_a_rate_does_not_depend_on_batches_at_the_ends() -> None:
    """Batches of 8 responses each second are 8 responses a second, though 40 arrive within four seconds."""
    ends = np.repeat(np.arange(5.0), 8)

    assert rate_of(ends, 4.1, 8) == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize(
    ("ends", "seconds", "clients", "least", "most"),
    [
        (3 + np.arange(32) / 1e5, 4.0, 32, 8, 16),  # one batch
        (np.full(8, 1.0), 4.0, 8, 2, 2),  # one batch at one moment
        (np.arange(300) / 1e4, 3.0, 4, 100, 102),  # then a stall until the end
        (np.concatenate([np.arange(300) / 1e3, 3.7 + np.arange(300) / 1e3]), 4.0, 4, 149, 151),  # a stall between
        (np.array([]), 4.0, 8, 0, 0),
    ],
)
def test_a_rate_is_right_by_the_clients_at_most(
    ends: NDArray[np.float64], seconds: float, clients: int, least: float, most: float
) -> None:
    """However the responses lie in the window, the rate differs from their number by one batch at most."""
    assert least <= rate_of(ends, seconds, clients) <= most


def test_a_closed_loop_shows_a_stall_at_its_end() -> None:
    """Requests that end after the window count, and have their latencies. They have no part in the rate."""
    window = measured(StallingPool(), lambda load: load.closed(2, STALL_SECONDS / 3))

    assert window.counts == Counts(2, 0, 0, 0)
    assert window.max_ms > STALL_SECONDS * 900
    assert (window.requests_per_second, window.ended) == (0, 0)


def test_an_open_loop_above_the_capacity_has_the_rate_of_the_responses() -> None:
    """Requests that end after the window have no part in the rate, so it is that of the service."""
    window = measured(SerialPool(), lambda load: load.open(1000, 0.5, Random(1)))

    assert window.counts.ok > 300  # each arrival is answered in the end
    assert window.requests_per_second < 120  # 100 are possible
    assert window.is_behind
