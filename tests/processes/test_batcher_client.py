"""Tests of `app/processes/batcher_client.py`, `batcher_server.py` and `shared_memory.py`: no slot is ever lost."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.batching.admission import BatcherLimits, BatcherLoad
from app.batching.batcher import Batcher, BatchReport
from app.batching.engine_worker import Run
from app.batching.types import InferenceResult
from app.errors import DeadlineExceeded, Draining, EngineFailed, InternalError, NotReady, Overloaded, ServiceError
from app.model_output import ModelOutput
from app.processes.batcher_client import BatcherClient
from app.processes.batcher_server import BatcherServer
from app.processes.messages import DONE, ERRORS, FIRST_ERROR, RESULT_STRUCT, MessageType, decode_error
from app.processes.shared_memory import (
    SharedLoad,
    TensorLayout,
    TensorPool,
    create_memory,
    pool_size,
    read_shared,
    write_shared,
)
from tests.support.engines import Gate
from tests.support.waiting import HANG_SECONDS

pytestmark = pytest.mark.anyio

LAYOUT = TensorLayout(slots=24, pixels=(2, 2, 3), classes=5, tokens=(4, 3))
LIMITS = BatcherLimits(capacity=16, max_batch=4, single_batch_seconds=0.0, full_batch_seconds=0.0)


async def loop_iterations() -> None:
    """Run the event loop until every task waits for an engine, a timer or the test."""
    for _ in range(5):
        await asyncio.sleep(0)


def image(value: int) -> NDArray[np.uint8]:
    return np.full(LAYOUT.pixels, value, np.uint8)


def classify(images: Sequence[NDArray[Any]], return_tokens: Sequence[bool]) -> list[ModelOutput]:
    """Return logits and tokens that are all equal to the value of the image."""
    values = [pixels[0, 0, 0] for pixels in images]
    return [
        ModelOutput(np.full(5, value, np.float32), np.full((4, 3), value, np.float32) if wanted else None)
        for value, wanted in zip(values, return_tokens, strict=True)
    ]


def held(gate: Gate) -> Run:
    """Return an engine that runs each batch when the gate opens."""

    def run(images: Sequence[NDArray[Any]], return_tokens: Sequence[bool]) -> list[ModelOutput]:
        gate(images)
        return classify(images, return_tokens)

    return run


def client_alone(slots: int, limits: BatcherLimits = LIMITS) -> tuple[BatcherClient, list[MessageType]]:
    """Return a client without a server, in front of engines that are always idle, and the kinds of its messages."""
    layout, sent = TensorLayout(slots, *LAYOUT[1:]), list[MessageType]()
    shared_load, fd = SharedLoad(create_memory("load", SharedLoad.SIZE)), create_memory("slots", pool_size(layout))
    shared_load.write(BatcherLoad(is_alive=True, works=True, is_draining=False, waiting=0, engines=1, free_at=0.0))
    client = BatcherClient(TensorPool(fd, layout), shared_load, limits, lambda kind, _: sent.append(kind))
    os.close(fd)
    return client, sent


class Pair:
    """A client and a server, each with its own view of the memory; messages go through the event loop, not a socket."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher, self.shared_load = batcher, SharedLoad(create_memory("load", SharedLoad.SIZE))
        fd, loop = create_memory("slots", pool_size(LAYOUT)), asyncio.get_running_loop()

        def send_to_client(kind: MessageType, payload: bytes) -> None:
            loop.call_soon(self._handle_in_client, kind, payload)

        def send_to_server(kind: MessageType, payload: bytes) -> None:
            loop.call_soon(self._handle_in_server, kind, payload)

        self.server = BatcherServer(batcher, TensorPool(fd, LAYOUT), send_to_client)
        self.client = BatcherClient(TensorPool(fd, LAYOUT), self.shared_load, batcher.limits, send_to_server)
        os.close(fd)
        self.publish_load()

    def publish_load(self) -> None:
        """Publish the load of the batcher to the client."""
        self.shared_load.write(self.batcher.load)

    @property
    def free_slots(self) -> int:
        """Number of slots that the client could use now."""
        return len(self.client._free_slots)  # noqa: SLF001 (only tests need it)

    def _handle_in_server(self, kind: MessageType, payload: bytes) -> None:
        {MessageType.SUBMIT: self.server.submit, MessageType.CANCEL: self.server.cancel}[kind](payload)

    def _handle_in_client(self, kind: MessageType, payload: bytes) -> None:
        assert kind == MessageType.RESULT
        self.client.receive_result(payload)


@asynccontextmanager
async def pair_of(engine: Run, **options: Any) -> AsyncIterator[Pair]:
    batcher = Batcher([engine], **({"max_batch": 4, "capacity": 16} | options))
    batcher.start()
    try:
        yield Pair(batcher)
    finally:
        await batcher.drain()


async def test_each_image_gets_its_own_result_and_every_slot_is_freed() -> None:
    """No slot is lost with 1,400 images, of which some return tokens and some are cancelled at any moment."""
    chance = random.Random(0)
    async with pair_of(classify) as pair:

        async def call(value: int) -> None:
            return_tokens, is_cancelled = chance.random() < 0.3, chance.random() < 0.3
            task = asyncio.create_task(pair.client.submit(image(value), return_tokens=return_tokens))
            if is_cancelled:
                for _ in range(chance.randrange(6)):
                    await asyncio.sleep(0)
                task.cancel()
            try:
                result = await task
            except (asyncio.CancelledError, Overloaded):
                return
            assert (result.output.logits == value).all()
            assert (result.output.tokens is not None) == return_tokens
            assert not return_tokens or (result.output.tokens == value).all()

        for _ in range(100):
            await asyncio.gather(*(call(chance.randrange(256)) for _ in range(14)))
        await pair.client.drain(HANG_SECONDS)

        assert pair.free_slots == LAYOUT.slots
        assert pair.batcher.waiting == 0


async def test_without_a_free_slot_retry_after_is_the_work_ahead() -> None:
    """With all four slots in use, `Retry-After` is the time of two batches of two images, 3 s each."""
    client, sent = client_alone(slots=4, limits=BatcherLimits(16, 2, 2.0, 3.0))
    calls = [asyncio.create_task(client.submit(image(value))) for value in range(4)]
    await loop_iterations()

    with pytest.raises(Overloaded) as raised:
        await client.submit(image(4))

    assert (raised.value.retry_after, len(sent)) == (6, 4)
    client.abort()
    await asyncio.wait(calls)
    assert [type(call.exception()) for call in calls] == [Draining] * 4


async def test_a_cancellation_during_delivery_does_not_cancel_the_next_image() -> None:
    """A slot that is freed and reused before the cancelled task runs again is not cancelled."""
    client, sent = client_alone(slots=1)
    cancelled = asyncio.create_task(client.submit(image(1)))
    await loop_iterations()

    other = asyncio.create_task(client.submit(image(2)))
    cancelled.cancel()
    client.receive_result(RESULT_STRUCT.pack(0, DONE, 0.0))
    await loop_iterations()

    assert cancelled.cancelled()
    assert sent == [MessageType.SUBMIT, MessageType.SUBMIT]
    client.receive_result(RESULT_STRUCT.pack(0, DONE, 0.0))
    await other


async def test_the_trace_of_an_image_reaches_its_batch() -> None:
    """The report of the engine process has the trace that the HTTP worker gave, and nothing for an untraced image."""
    reports = list[BatchReport]()
    async with pair_of(classify, on_batch=reports.append) as pair:
        await pair.client.submit(image(1), trace=bytes(range(24)))
        await pair.client.submit(image(2))

    assert [report.traces for report in reports] == [[bytes(range(24))], []]


async def test_an_exited_http_worker_leaves_no_images_in_the_queue() -> None:
    """Its queued images are removed, the result of its running image is discarded, and the engine goes on."""
    gate = Gate()
    async with pair_of(held(gate), max_batch=1) as pair:
        calls = [asyncio.create_task(pair.client.submit(image(value))) for value in range(3)]
        await asyncio.to_thread(gate.wait_until_entered)
        before = pair.batcher.waiting
        pair.server.close()
        after = pair.batcher.waiting
        gate.open()
        other = asyncio.create_task(pair.batcher.submit(image(7)))
        await asyncio.to_thread(gate.wait_until_entered)
        gate.open()
        result = await other
        for call in calls:
            call.cancel()

    assert (before, after) == (2, 0)
    assert (result.output.logits == 7).all()


@pytest.mark.parametrize("error", [decode_error(outcome, 7) for outcome, _ in enumerate(ERRORS, FIRST_ERROR)])
async def test_every_error_of_the_batcher_reaches_the_client(
    error: ServiceError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client raises the error of the batcher, with the same `Retry-After`, and the slot is free."""

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    async with pair_of(classify) as pair:
        monkeypatch.setattr(pair.batcher, "enqueue", refuse)
        with pytest.raises(type(error)) as raised:
            await pair.client.submit(image(1))

        assert vars(raised.value) == vars(error)
        assert pair.free_slots == LAYOUT.slots


async def test_an_engine_failure_reaches_the_client() -> None:
    """If the engine fails, the client raises `EngineFailed`."""

    def fail(*_: Any) -> list[ModelOutput]:
        raise RuntimeError("broken")

    async with pair_of(fail) as pair:
        with pytest.raises(EngineFailed):
            await pair.client.submit(image(1))


async def test_a_full_queue_refuses_without_a_message() -> None:
    """The client refuses an image by the published load alone."""
    gate = Gate()
    async with pair_of(held(gate), max_batch=1, capacity=2) as pair:
        calls = [asyncio.create_task(pair.client.submit(image(0)))]
        await asyncio.to_thread(gate.wait_until_entered)
        calls += [asyncio.create_task(pair.client.submit(image(value))) for value in (1, 2)]
        await loop_iterations()
        pair.client.admit()
        pair.publish_load()
        with pytest.raises(Overloaded):
            pair.client.admit()
        gate.open(3)
        await asyncio.gather(*calls)


@pytest.mark.parametrize("seconds", [0.01, 3600])
async def test_a_drain_ends_at_its_timeout_or_by_abort(seconds: float) -> None:
    """After the timeout or `abort`, submitted images fail with `Draining`, even if the engine hangs."""
    gate = Gate()
    async with pair_of(held(gate)) as pair:
        call = asyncio.create_task(pair.client.submit(image(1)))
        await asyncio.to_thread(gate.wait_until_entered)
        draining = asyncio.create_task(pair.client.drain(seconds))
        await loop_iterations()
        if seconds == 3600:
            pair.client.abort()
        await asyncio.wait_for(draining, HANG_SECONDS)
        with pytest.raises(Draining):
            await call
        gate.open()


async def test_a_stale_load_fails_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the engine process has not published its load for too long, submitted and new images fail."""
    gate = Gate()
    async with pair_of(held(gate)) as pair:
        pair.publish_load()
        call = asyncio.create_task(pair.client.submit(image(1)))
        await asyncio.to_thread(gate.wait_until_entered)
        pair.client.check_engine_process()
        monkeypatch.setattr("app.processes.shared_memory.STALE_SECONDS", -1)
        pair.client.check_engine_process()
        with pytest.raises(NotReady):
            await call
        with pytest.raises(NotReady):
            pair.client.admit()
        assert not pair.client.alive
        assert not pair.client.works
        assert pair.free_slots == LAYOUT.slots - 1
        gate.open()
        await loop_iterations()


async def test_a_drain_waits_for_submitted_images() -> None:
    """New images are refused; submitted ones get their results, or fail after `abort`."""
    gate = Gate()
    async with pair_of(held(gate), max_batch=1) as pair:
        first, second = (asyncio.create_task(pair.client.submit(image(value))) for value in (1, 2))
        await asyncio.to_thread(gate.wait_until_entered)
        draining = asyncio.create_task(pair.client.drain(3600))
        gate.open()
        assert (await first).output.logits[0] == 1
        with pytest.raises(Draining):
            await pair.client.submit(image(3))
        await asyncio.to_thread(gate.wait_until_entered)
        pair.client.abort()
        with pytest.raises(Draining):
            await second
        await draining
        gate.open()


def test_a_published_load_is_read_unchanged() -> None:
    """A load that is written through one mapping is read through another."""
    fd = create_memory("load", SharedLoad.SIZE)
    load = BatcherLoad(True, False, True, 3, 2, 17.5)
    SharedLoad(fd).write(load)

    assert SharedLoad(fd).read() == load
    os.close(fd)


@pytest.mark.parametrize("error", [MemoryError(), IndexError("a defect"), ServiceError("without an outcome")])
async def test_an_unexpected_error_of_the_queue_reaches_the_client(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If `enqueue` raises an unexpected error, the client raises `InternalError`, and the slot is free."""

    def enqueue(*_: object, **__: object) -> None:
        raise error

    async with pair_of(classify) as pair:
        monkeypatch.setattr(pair.batcher, "enqueue", enqueue)
        with pytest.raises(InternalError):
            await asyncio.wait_for(pair.client.submit(image(1)), 10)
        assert pair.free_slots == LAYOUT.slots


async def test_an_unexpected_error_of_an_image_reaches_the_client() -> None:
    """An unexpected error, an output that does not fit, and a cancellation by the batcher are `InternalError`."""
    gate = Gate()
    async with pair_of(held(gate), max_batch=1) as pair:
        calls = [asyncio.create_task(pair.client.submit(image(value))) for value in range(4)]
        await asyncio.to_thread(gate.wait_until_entered)
        entries = pair.server._entries  # noqa: SLF001 (by slot)
        of_call = [entries[slot] for slot in sorted(entries, reverse=True)]
        of_call[1].result.set_exception(RuntimeError("a defect"))
        of_call[2].result.set_result(InferenceResult(ModelOutput(np.zeros(7, np.float32), None), 0.0, 0.0))
        of_call[3].result.cancel()
        await asyncio.wait(calls[1:], timeout=10)
        gate.open()
        await calls[0]

    assert [type(call.exception()) for call in calls[1:]] == [InternalError] * 3
    assert pair.free_slots == LAYOUT.slots


async def test_an_output_that_cannot_be_read_frees_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the output cannot be read, the client raises `InternalError`, and the slot is free."""

    def read(*_: object, **__: object) -> None:
        raise MemoryError

    async with pair_of(classify) as pair:
        monkeypatch.setattr(pair.client._pool, "read", read)  # noqa: SLF001 (the view of the HTTP worker)
        with pytest.raises(InternalError):
            await asyncio.wait_for(pair.client.submit(image(1)), 10)
        assert pair.free_slots == LAYOUT.slots


async def test_an_image_that_cannot_be_sent_takes_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the pixels do not fit, or the message cannot be sent, the slot stays free."""
    client, sent = client_alone(slots=1)
    with pytest.raises(ValueError, match="broadcast"):
        await client.submit(np.zeros((3, 3, 3), np.uint8))

    def send(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(client, "_send", send)
        with pytest.raises(MemoryError):
            await client.submit(image(1))
    other = asyncio.create_task(client.submit(image(2)))
    await loop_iterations()

    assert sent == [MessageType.SUBMIT]
    client.receive_result(RESULT_STRUCT.pack(0, DONE, 0.0))
    await other
    await client.drain()


async def test_an_overdue_result_fails_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a result, the image fails soon after its deadline, and its slot stays in use until the result arrives."""
    monkeypatch.setattr("app.processes.batcher_client.GRACE_SECONDS", 0.05)
    client, sent = client_alone(slots=1)
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(client.submit(image(1), deadline=time.perf_counter() + 0.01), 10)
    with pytest.raises(Overloaded):
        await client.submit(image(2))

    assert sent == [MessageType.SUBMIT, MessageType.CANCEL]
    client.receive_result(RESULT_STRUCT.pack(0, DONE, 0.0))  # after the deadline
    other = asyncio.create_task(client.submit(image(3), deadline=time.perf_counter() + 60))
    await loop_iterations()
    assert not other.done()
    client.receive_result(RESULT_STRUCT.pack(0, DONE, 0.0))
    assert (await other).run_seconds == 0.0


async def test_an_overdue_result_does_not_delay_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """`drain` does not wait for the result of an image that has failed."""
    monkeypatch.setattr("app.processes.batcher_client.GRACE_SECONDS", 0)
    client, _ = client_alone(slots=2)
    with pytest.raises(DeadlineExceeded):
        await client.submit(image(1), deadline=time.perf_counter() + 0.01)

    await asyncio.wait_for(client.drain(), 10)


def test_a_shared_value_is_read_without_a_copy() -> None:
    """The arrays of a shared value are read-only views of the shared memory."""
    weights = np.arange(100_000, dtype=np.float32)
    fd = write_shared("value", {"name": "a", "weights": weights, "few": np.ones(3, np.float32)})
    value = read_shared(fd)
    os.close(fd)

    assert value["name"] == "a"
    assert np.array_equal(value["weights"], weights)
    assert np.array_equal(value["few"], np.ones(3))
    assert not value["weights"].flags.owndata
    assert not value["weights"].flags.writeable
