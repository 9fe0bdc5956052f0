"""What an HTTP worker asks, and is asked: every question is answered, with what is known or with an internal error."""

import asyncio
import pickle
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.batching.batcher import Batcher
from app.errors import InternalError
from app.observability.metrics import Metrics
from app.processes.channel import COUNTS, REPLY_OF
from app.processes.http_worker import HttpWorker, InheritedFds, WorkerConfig
from app.processes.supervisor import Supervisor
from app.processes.worker_process import WorkerProcess

pytestmark = pytest.mark.anyio

Ask = Callable[[], Awaitable[Any]]


async def nothing() -> dict[str, Any]:
    """Report what there is."""
    return {"engines": []}


async def fail() -> dict[str, Any]:
    """Fail as a defect does."""
    raise RuntimeError("a defect")


async def unsendable() -> dict[str, Any]:
    """Report what cannot be pickled."""
    return {"engines": lambda: None}


class Line:
    """An HTTP worker and the process of the engines, with nothing between them but the event loop."""

    def __init__(self, report: Ask) -> None:
        backend = cast("Any", SimpleNamespace(report=report))
        self.sent = list[tuple[int, bytes]]()
        engines = Supervisor(
            cast("WorkerConfig", None), [], Batcher([], max_batch=1, capacity=1), backend, Metrics("queue")
        )
        config = cast("WorkerConfig", SimpleNamespace(bundle=None))
        self.http_worker = http_worker = HttpWorker(InheritedFds(0, 0, 0, 0, 0), config)
        life = SimpleNamespace(index=0, channel=SimpleNamespace(send=lambda _, reply: http_worker._take_reply(reply)))  # noqa: SLF001

        def send(kind: int, payload: bytes) -> None:
            self.sent.append((kind, payload))
            if kind != COUNTS:
                engines._hear(cast("WorkerProcess", life), payload)  # noqa: SLF001

        http_worker._channel = cast("Any", SimpleNamespace(send=send))  # noqa: SLF001


async def test_a_question_is_answered() -> None:
    """With what the process of the engines knows."""
    line = Line(nothing)

    assert await line.http_worker.report() == {"engines": []}
    assert b"swin_queue_depth" in await line.http_worker.exposition()


@pytest.mark.parametrize("report", [fail, unsendable])
async def test_a_question_that_cannot_be_answered_is_answered_at_once(report: Ask) -> None:
    """With an internal error, long before the HTTP worker would give up."""
    with pytest.raises(InternalError):
        await asyncio.wait_for(Line(report).http_worker.report(), 5)


async def test_a_question_that_nobody_knows_is_answered_at_once() -> None:
    """Likewise."""
    with pytest.raises(InternalError):
        await asyncio.wait_for(Line(nothing).http_worker._ask("weather"), 5)  # noqa: SLF001 (no such question is asked)


async def test_a_reply_that_cannot_be_read_ends_the_question() -> None:
    """Likewise."""
    http_worker = Line(nothing).http_worker
    http_worker._channel = cast(  # noqa: SLF001
        "Any",
        SimpleNamespace(send=lambda *_: http_worker._take_reply(REPLY_OF.pack(0, True) + b"no pickle")),  # noqa: SLF001
    )

    with pytest.raises(InternalError):
        await asyncio.wait_for(http_worker.report(), 5)


async def test_a_http_worker_that_cannot_count_still_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends a message without counts; the process of the engines keeps those of before, and does not kill it."""
    line, life = Line(nothing), WorkerProcess(0)
    monkeypatch.setattr(line.http_worker._metrics, "counts", lambda: 1 / 0)  # noqa: SLF001
    life.counts, life.heard_at = before, _ = [*Metrics().counts()], 0.0
    line.http_worker._count()  # noqa: SLF001
    ((kind, payload),) = line.sent
    life._take_counts(payload)  # noqa: SLF001

    assert kind == COUNTS
    assert life.counts == before
    assert time.monotonic() - life.heard_at < 5


async def test_counts_that_cannot_be_read_hold_up_nobody() -> None:
    """Whoever asks for metrics gets what was said before, at once, and no trace of the question is kept."""
    life = WorkerProcess(0)
    life.has_begun.set_result(True)

    def send(_: int, number: bytes) -> None:
        with pytest.raises(pickle.UnpicklingError):
            life._take_counts(number + b"no pickle")  # noqa: SLF001

    life.channel = cast("Any", SimpleNamespace(send=send))
    await asyncio.wait_for(life.count(), 0.4)  # sooner than it would give up

    assert life.counts == []
    assert life._counting == {}  # noqa: SLF001
