"""`app/processes/batcher_client.py`, `batcher_server.py`: a batcher through slots and messages; no slot is lost."""

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
from app.batching.batcher import Batcher
from app.batching.engine_worker import Run
from app.batching.types import InferenceResult
from app.errors import DeadlineExceeded, Draining, EngineFailed, InternalError, NotReady, Overloaded, ServiceError
from app.model_output import ModelOutput
from app.processes import channel
from app.processes.batcher_client import BatcherClient
from app.processes.batcher_server import BatcherServer
from app.processes.channel import DONE, FIRST_REFUSAL, REFUSALS, refusal
from app.processes.shared_memory import SharedLoad, TensorLayout, TensorPool, memory, read_shared, shared, size_of
from tests.support.engines import Gate
from tests.support.waiting import HANG_SECONDS

pytestmark = pytest.mark.anyio

SHAPES = TensorLayout(slots=24, pixels=(2, 2, 3), classes=5, tokens=(4, 3))
AT_ONCE = BatcherLimits(capacity=16, max_batch=4, seconds_of_one=0.0, seconds_of_most=0.0)


async def turns() -> None:
    """Let the event loop do all it can do without anybody's help."""
    for _ in range(5):
        await asyncio.sleep(0)


def image(value: int) -> NDArray[np.uint8]:
    return np.full(SHAPES.pixels, value, np.uint8)


def classify(rows: Sequence[NDArray[Any]], return_tokens: Sequence[bool]) -> list[ModelOutput]:
    """Logits and tokens that say which image they are of."""
    return [
        ModelOutput(np.full(5, row[0, 0, 0], np.float32), np.full((4, 3), row[0, 0, 0], np.float32) if wanted else None)
        for row, wanted in zip(rows, return_tokens, strict=True)
    ]


def held(gate: Gate) -> Run:
    """The same, but each batch has to pass the gate first."""

    def run(rows: Sequence[NDArray[Any]], return_tokens: Sequence[bool]) -> list[ModelOutput]:
        gate(rows)
        return classify(rows, return_tokens)

    return run


def alone(slots: int, limits: BatcherLimits = AT_ONCE) -> tuple[BatcherClient, list[int]]:
    """An HTTP worker's side of it before engines that are idle for ever; and the kinds of the messages that it sends."""
    shapes, sent = TensorLayout(slots, *SHAPES[1:]), list[int]()
    board, file = SharedLoad(memory("board", SharedLoad.SIZE)), memory("slots", size_of(shapes))
    board.write(BatcherLoad(is_alive=True, works=True, is_draining=False, waiting=0, engines=1, free_at=0.0))
    remote = BatcherClient(TensorPool(file, shapes), board, limits, lambda kind, _: sent.append(kind))
    os.close(file)
    return remote, sent


class Pair:
    """Both sides, each with its own view of the memory; messages go through the event loop, as through a socket."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher, self.board = batcher, SharedLoad(memory("board", SharedLoad.SIZE))
        file, loop = memory("slots", size_of(SHAPES)), asyncio.get_running_loop()

        def up(kind: int, payload: bytes) -> None:
            loop.call_soon(self._up, kind, payload)

        def down(kind: int, payload: bytes) -> None:
            loop.call_soon(self._down, kind, payload)

        self.server = BatcherServer(batcher, TensorPool(file, SHAPES), up)
        self.remote = BatcherClient(TensorPool(file, SHAPES), self.board, batcher.limits, down)
        os.close(file)
        self.post()

    def post(self) -> None:
        """Let the HTTP worker see how things stand."""
        self.board.write(self.batcher.load)

    @property
    def free(self) -> int:
        """TensorPool that are."""
        return len(self.remote._free)  # noqa: SLF001 (nobody else has to know)

    def _down(self, kind: int, payload: bytes) -> None:
        {channel.ROW: self.server.take, channel.FORGET: self.server.cancel}[kind](payload)

    def _up(self, kind: int, payload: bytes) -> None:
        assert kind == channel.ANSWER
        self.remote.take_answer(payload)


@asynccontextmanager
async def pair_of(engine: Run, **options: Any) -> AsyncIterator[Pair]:
    batcher = Batcher([engine], **({"max_batch": 4, "capacity": 16} | options))
    batcher.start()
    try:
        yield Pair(batcher)
    finally:
        await batcher.drain()


async def test_each_row_gets_its_own_answer_and_every_slot_comes_back() -> None:
    """Over a thousand rows, some return_tokens, some whose callers leave at any moment."""
    chance = random.Random(0)
    async with pair_of(classify) as pair:

        async def call(value: int) -> None:
            return_tokens, leaves = chance.random() < 0.3, chance.random() < 0.3
            task = asyncio.create_task(pair.remote.submit(image(value), return_tokens=return_tokens))
            if leaves:
                for _ in range(chance.randrange(6)):
                    await asyncio.sleep(0)
                task.cancel()
            try:
                answer = await task
            except (asyncio.CancelledError, Overloaded):
                return
            assert (answer.output.logits == value).all()
            assert (answer.output.tokens is not None) == return_tokens
            assert not return_tokens or (answer.output.tokens == value).all()

        for _ in range(100):
            await asyncio.gather(*(call(chance.randrange(256)) for _ in range(14)))
        await pair.remote.drain(HANG_SECONDS)

        assert pair.free == SHAPES.slots
        assert pair.batcher.waiting == 0


async def test_without_a_slot_a_row_is_told_when_to_come_again() -> None:
    """What has them all is ahead of it: one batch of two after another, each of three seconds."""
    remote, sent = alone(slots=4, limits=BatcherLimits(16, 2, 2.0, 3.0))
    calls = [asyncio.create_task(remote.submit(image(value))) for value in range(4)]
    await turns()

    with pytest.raises(Overloaded) as raised:
        await remote.submit(image(4))

    assert (raised.value.retry_after, len(sent)) == (6, 4)
    remote.abort()
    await asyncio.wait(calls)
    assert [type(call.exception()) for call in calls] == [Draining] * 4


async def test_who_leaves_as_it_is_answered_takes_nobody_along() -> None:
    """Between its leaving and its task's hearing of it, its slot comes back and goes to another: that one stays."""
    remote, sent = alone(slots=1)
    leaver = asyncio.create_task(remote.submit(image(1)))
    await turns()

    other = asyncio.create_task(remote.submit(image(2)))
    leaver.cancel()
    remote.take_answer(channel.ANSWER_OF.pack(0, DONE, 0.0))
    await turns()

    assert leaver.cancelled()
    assert sent == [channel.ROW, channel.ROW]
    remote.take_answer(channel.ANSWER_OF.pack(0, DONE, 0.0))
    await other


async def test_a_http_worker_that_dies_leaves_no_rows() -> None:
    """Those that wait are taken out, the one that is run is answered to nobody, and the engine goes on."""
    gate = Gate()
    async with pair_of(held(gate), max_batch=1) as pair:
        calls = [asyncio.create_task(pair.remote.submit(image(value))) for value in range(3)]
        await asyncio.to_thread(gate.wait_until_entered)
        waited = pair.batcher.waiting
        pair.server.close()
        left = pair.batcher.waiting
        gate.open()
        other = asyncio.create_task(pair.batcher.submit(image(7)))
        await asyncio.to_thread(gate.wait_until_entered)
        gate.open()
        answer = await other
        for call in calls:
            call.cancel()

    assert (waited, left) == (2, 0)
    assert (answer.output.logits == 7).all()


@pytest.mark.parametrize("error", [refusal(place, 7) for place, _ in enumerate(REFUSALS, FIRST_REFUSAL)])
async def test_every_error_of_the_batcher_arrives_as_itself(
    error: ServiceError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused there, a caller here hears the same, with the same time to try again; and its slot is free."""

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    async with pair_of(classify) as pair:
        monkeypatch.setattr(pair.batcher, "put", refuse)
        with pytest.raises(type(error)) as raised:
            await pair.remote.submit(image(1))

        assert vars(raised.value) == vars(error)
        assert pair.free == SHAPES.slots


async def test_an_engine_that_fails_is_heard_of() -> None:
    """Its rows' callers hear that it failed."""

    def fail(*_: Any) -> list[ModelOutput]:
        raise RuntimeError("broken")

    async with pair_of(fail) as pair:
        with pytest.raises(EngineFailed):
            await pair.remote.submit(image(1))


async def test_a_full_queue_is_seen_before_any_work() -> None:
    """What the engines' process has posted is enough to refuse, without a message."""
    gate = Gate()
    async with pair_of(held(gate), max_batch=1, capacity=2) as pair:
        calls = [asyncio.create_task(pair.remote.submit(image(0)))]
        await asyncio.to_thread(gate.wait_until_entered)
        calls += [asyncio.create_task(pair.remote.submit(image(value))) for value in (1, 2)]
        await turns()
        pair.remote.admit()
        pair.post()
        with pytest.raises(Overloaded):
            pair.remote.admit()
        gate.open(3)
        await asyncio.gather(*calls)


@pytest.mark.parametrize("seconds", [0.01, 3600])
async def test_a_drain_ends_when_it_is_over_or_told_to(seconds: float) -> None:
    """By the clock, or by a second signal: who waits hears that the service shuts down, whatever the engines do."""
    gate = Gate()
    async with pair_of(held(gate)) as pair:
        call = asyncio.create_task(pair.remote.submit(image(1)))
        await asyncio.to_thread(gate.wait_until_entered)
        draining = asyncio.create_task(pair.remote.drain(seconds))
        await turns()
        if seconds == 3600:
            pair.remote.abort()
        await asyncio.wait_for(draining, HANG_SECONDS)
        with pytest.raises(Draining):
            await call
        gate.open()


async def test_who_waits_for_a_process_that_does_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not said for long how things stand: nothing is taken any more, and nobody waits for ever."""
    gate = Gate()
    async with pair_of(held(gate)) as pair:
        pair.post()
        call = asyncio.create_task(pair.remote.submit(image(1)))
        await asyncio.to_thread(gate.wait_until_entered)
        pair.remote.look()
        monkeypatch.setattr("app.processes.shared_memory.STALE_SECONDS", -1)
        pair.remote.look()
        with pytest.raises(NotReady):
            await call
        with pytest.raises(NotReady):
            pair.remote.admit()
        assert not pair.remote.alive
        assert not pair.remote.works
        assert pair.free == SHAPES.slots - 1
        gate.open()
        await turns()


async def test_a_drain_waits_for_what_is_on_its_way() -> None:
    """New rows are refused; those before are answered, or given up when it is told to."""
    gate = Gate()
    async with pair_of(held(gate), max_batch=1) as pair:
        first, second = (asyncio.create_task(pair.remote.submit(image(value))) for value in (1, 2))
        await asyncio.to_thread(gate.wait_until_entered)
        draining = asyncio.create_task(pair.remote.drain(3600))
        gate.open()
        assert (await first).output.logits[0] == 1
        with pytest.raises(Draining):
            await pair.remote.submit(image(3))
        await asyncio.to_thread(gate.wait_until_entered)
        pair.remote.abort()
        with pytest.raises(Draining):
            await second
        await draining
        gate.open()


def test_how_things_stand_is_the_same_on_both_sides() -> None:
    """What is posted on one side of the memory is read on the other."""
    file = memory("board", SharedLoad.SIZE)
    load = BatcherLoad(True, False, True, 3, 2, 17.5)
    SharedLoad(file).write(load)

    assert SharedLoad(file).read() == load
    os.close(file)


@pytest.mark.parametrize("error", [MemoryError(), IndexError("a defect"), ServiceError("without an outcome")])
async def test_an_error_that_nobody_knows_is_answered_at_once(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised where a row is handed in, its caller gets an internal error, and its slot is free."""

    def enqueue(*_: object, **__: object) -> None:
        raise error

    async with pair_of(classify) as pair:
        monkeypatch.setattr(pair.batcher, "put", enqueue)
        with pytest.raises(InternalError):
            await asyncio.wait_for(pair.remote.submit(image(1)), 10)
        assert pair.free == SHAPES.slots


async def test_a_row_that_fails_in_a_way_that_nobody_knows_is_answered() -> None:
    """So is one whose output does not fit its slot, and one that the batcher gave up by itself."""
    gate = Gate()
    async with pair_of(held(gate), max_batch=1) as pair:
        calls = [asyncio.create_task(pair.remote.submit(image(value))) for value in range(4)]
        await asyncio.to_thread(gate.wait_until_entered)
        rows = pair.server._rows  # noqa: SLF001 (by slot)
        of_call = [rows[slot] for slot in sorted(rows, reverse=True)]
        of_call[1].answer.set_exception(RuntimeError("a defect"))
        of_call[2].answer.set_result(InferenceResult(ModelOutput(np.zeros(7, np.float32), None), 0.0, 0.0))
        of_call[3].answer.cancel()
        await asyncio.wait(calls[1:], timeout=10)
        gate.open()
        await calls[0]

    assert [type(call.exception()) for call in calls[1:]] == [InternalError] * 3
    assert pair.free == SHAPES.slots


async def test_an_answer_that_cannot_be_read_frees_its_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its caller gets an internal error."""

    def read(*_: object, **__: object) -> None:
        raise MemoryError

    async with pair_of(classify) as pair:
        monkeypatch.setattr(pair.remote._slots, "read", read)  # noqa: SLF001 (the HTTP worker's view of them)
        with pytest.raises(InternalError):
            await asyncio.wait_for(pair.remote.submit(image(1)), 10)
        assert pair.free == SHAPES.slots


async def test_a_row_that_was_not_handed_in_takes_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pixels do not fit, or the message cannot be sent."""
    remote, sent = alone(slots=1)
    with pytest.raises(ValueError, match="broadcast"):
        await remote.submit(np.zeros((3, 3, 3), np.uint8))

    def send(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(remote, "_send", send)
        with pytest.raises(MemoryError):
            await remote.submit(image(1))
    other = asyncio.create_task(remote.submit(image(2)))
    await turns()

    assert sent == [channel.ROW]
    remote.take_answer(channel.ANSWER_OF.pack(0, DONE, 0.0))
    await other
    await remote.drain()


async def test_a_http_worker_waits_no_longer_than_its_own_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no answer comes, the caller is told, the slot is no other row's until it comes back, and a stop ends."""
    monkeypatch.setattr("app.processes.batcher_client.GRACE_SECONDS", 0.05)
    remote, sent = alone(slots=1)
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(remote.submit(image(1), deadline=time.perf_counter() + 0.01), 10)
    with pytest.raises(Overloaded):
        await remote.submit(image(2))

    assert sent == [channel.ROW, channel.FORGET]
    remote.take_answer(channel.ANSWER_OF.pack(0, DONE, 0.0))  # late
    other = asyncio.create_task(remote.submit(image(3), deadline=time.perf_counter() + 60))
    await turns()
    assert not other.done()
    remote.take_answer(channel.ANSWER_OF.pack(0, DONE, 0.0))
    assert (await other).run_seconds == 0.0


async def test_a_row_that_was_lost_does_not_hold_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for its answer."""
    monkeypatch.setattr("app.processes.batcher_client.GRACE_SECONDS", 0)
    remote, _ = alone(slots=2)
    with pytest.raises(DeadlineExceeded):
        await remote.submit(image(1), deadline=time.perf_counter() + 0.01)

    await asyncio.wait_for(remote.drain(), 10)


def test_a_shared_value_is_not_copied_by_who_reads_it() -> None:
    """Its arrays lie in the shared memory itself, and cannot be written to."""
    weights = np.arange(100_000, dtype=np.float32)
    file = shared("value", {"name": "a", "weights": weights, "few": np.ones(3, np.float32)})
    value = read_shared(file)
    os.close(file)

    assert value["name"] == "a"
    assert np.array_equal(value["weights"], weights)
    assert np.array_equal(value["few"], np.ones(3))
    assert not value["weights"].flags.owndata
    assert not value["weights"].flags.writeable
