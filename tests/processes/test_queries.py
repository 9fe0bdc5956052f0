"""Tests of queries and metrics between an HTTP worker and the engine process: every query gets a reply or an error."""

import asyncio
import pickle
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from app.batching.batcher import Batcher
from app.errors import InternalError
from app.observability.metrics import Metrics
from app.processes.http_worker import HttpWorker, InheritedFds
from app.processes.messages import REPLY_STRUCT, MessageType
from app.processes.supervisor import Supervisor
from app.processes.worker_process import WorkerProcess

if TYPE_CHECKING:
    from app.processes.worker_config import WorkerConfig

pytestmark = pytest.mark.anyio

Report = Callable[[], Awaitable[Any]]


async def no_engines() -> dict[str, Any]:
    """Return a report without engines."""
    return {"engines": []}


async def fail() -> dict[str, Any]:
    """Raise an error that no code expects."""
    raise RuntimeError("a defect")


async def not_picklable() -> dict[str, Any]:
    """Return a report that cannot be pickled."""
    return {"engines": lambda: None}


class Pair:
    """An HTTP worker and a supervisor that call each other directly, without a socket."""

    def __init__(self, report: Report) -> None:
        backend = cast("Any", SimpleNamespace(report=report))
        self.sent = list[tuple[MessageType, bytes]]()
        supervisor = Supervisor(
            cast("WorkerConfig", None), [], Batcher([], max_batch=1, capacity=1), backend, Metrics("batcher")
        )
        config = cast("WorkerConfig", SimpleNamespace(bundle=None, is_traced=False))
        self.http_worker = http_worker = HttpWorker(InheritedFds(0, 0, 0, 0, 0), config)
        channel = SimpleNamespace(send=lambda _, reply: http_worker._receive_reply(reply))  # noqa: SLF001 (one side of a socket)
        worker = cast("WorkerProcess", SimpleNamespace(index=0, channel=channel))

        def send(kind: MessageType, payload: bytes) -> None:
            self.sent.append((kind, payload))
            if kind != MessageType.METRICS:
                supervisor._receive_query(worker, payload)  # noqa: SLF001 (one side of a socket)

        http_worker._channel = cast("Any", SimpleNamespace(send=send))  # noqa: SLF001 (one side of a socket)


async def test_a_query_gets_a_reply() -> None:
    """The HTTP worker gets the report and the metrics of the engine process."""
    pair = Pair(no_engines)

    assert await pair.http_worker.report() == {"engines": []}
    assert b"swin_queue_depth" in await pair.http_worker.exposition()


@pytest.mark.parametrize("report", [fail, not_picklable])
async def test_a_query_that_fails_gets_an_error_at_once(report: Report) -> None:
    """If the engine process cannot reply, the HTTP worker raises `InternalError` long before its timeout."""
    with pytest.raises(InternalError):
        await asyncio.wait_for(Pair(report).http_worker.report(), 5)


async def test_an_unknown_query_gets_an_error_at_once() -> None:
    """A query with an unknown name raises `InternalError` long before the timeout."""
    with pytest.raises(InternalError):
        await asyncio.wait_for(Pair(no_engines).http_worker._query("weather"), 5)  # noqa: SLF001 (no public query has it)


async def test_a_reply_that_cannot_be_read_ends_the_query() -> None:
    """A reply that cannot be unpickled raises `InternalError` long before the timeout."""
    http_worker = Pair(no_engines).http_worker
    reply = REPLY_STRUCT.pack(0, True) + b"no pickle"
    http_worker._channel = cast("Any", SimpleNamespace(send=lambda *_: http_worker._receive_reply(reply)))  # noqa: SLF001 (one side of a socket)

    with pytest.raises(InternalError):
        await asyncio.wait_for(http_worker.report(), 5)


async def test_a_worker_that_cannot_collect_metrics_sends_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends METRICS without metrics: the engine process keeps the last values and renews the heartbeat."""
    pair, worker = Pair(no_engines), WorkerProcess(0)
    monkeypatch.setattr(pair.http_worker._metrics, "counts", lambda: 1 / 0)  # noqa: SLF001 (one side of a socket)
    worker.counts, worker.last_heartbeat = before, _ = [*Metrics().counts()], 0.0
    pair.http_worker._send_metrics()  # noqa: SLF001 (one side of a socket)
    ((kind, payload),) = pair.sent
    worker._receive_metrics(payload)  # noqa: SLF001 (one side of a socket)

    assert kind == MessageType.METRICS
    assert worker.counts == before
    assert time.monotonic() - worker.last_heartbeat < 5


async def test_metrics_that_cannot_be_read_do_not_delay_the_request() -> None:
    """`refresh_metrics` returns at once, with the last values, and forgets the request."""
    worker = WorkerProcess(0)
    worker.ready.set_result(True)

    def send(_: MessageType, request_id: bytes) -> None:
        with pytest.raises(pickle.UnpicklingError):
            worker._receive_metrics(request_id + b"no pickle")  # noqa: SLF001 (one side of a socket)

    worker.channel = cast("Any", SimpleNamespace(send=send))
    await asyncio.wait_for(worker.refresh_metrics(), 0.4)  # less than METRICS_TIMEOUT_SECONDS

    assert worker.counts == []
    assert worker._requests == {}  # noqa: SLF001 (one side of a socket)
