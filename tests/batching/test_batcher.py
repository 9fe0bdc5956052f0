"""`app/batching/batcher.py`, rule by rule."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.batching.batcher import Batcher, BatchReport
from app.batching.engine_worker import Run
from app.batching.types import InferenceResult
from app.errors import DeadlineExceeded, Draining, EngineFailed, NotReady, Overloaded
from tests.support.engines import Gate, rows

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def batcher_of(*engines: Run, **options: Any) -> AsyncIterator[Batcher]:
    batcher = Batcher(engines, **({"max_batch": 4, "capacity": 16} | options))
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.drain()


def submit_all(batcher: Batcher, values: range) -> list[asyncio.Task[InferenceResult]]:
    return [asyncio.create_task(batcher.submit(row)) for row in rows(values)]


async def turns() -> None:
    """Let the event loop do all it can do without anybody's help."""
    for _ in range(5):
        await asyncio.sleep(0)


async def entered(gate: Gate) -> None:
    await asyncio.to_thread(gate.wait_until_entered)


async def test_each_caller_gets_its_own_answer() -> None:
    """Answers come back to the rows they belong to."""
    async with batcher_of(lambda rows, _: np.stack(rows) * 10) as batcher:
        answers = await asyncio.gather(*submit_all(batcher, range(50)), return_exceptions=True)

    outputs = [answer.output.item() for answer in answers if isinstance(answer, InferenceResult)]
    assert [value * 10.0 for value in range(len(outputs))] == outputs
    assert len(outputs) == 16  # the capacity: the others were refused


async def test_a_batch_forms_while_the_engine_is_busy() -> None:
    """Whoever waits when the engine becomes free goes with the next batch, up to `max_batch`."""
    gate = Gate()
    async with batcher_of(gate) as batcher:
        first = submit_all(batcher, range(1))
        await entered(gate)
        others = submit_all(batcher, range(1, 7))
        gate.open(times=3)
        await asyncio.gather(*first, *others)

    assert gate.batches == [1, 4, 2]


async def test_a_lone_request_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clock takes part in forming a batch: a request that comes alone is run though no timer can ever fire."""
    loop = asyncio.get_running_loop()
    async with batcher_of(lambda rows, _: np.stack(rows) + 1) as batcher:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_later", None)
            patch.setattr(loop, "call_at", None)
            answer = await batcher.submit(np.zeros(1, np.float32))

    assert answer.output.item() == 1


async def test_linger_waits_for_a_fuller_batch() -> None:
    """With `max_queue_delay` a free engine waits while the batch has room, and goes as soon as it has none."""
    gate = Gate()
    gate.open()
    async with batcher_of(gate, max_queue_delay=60.0, max_batch=3) as batcher:
        early = submit_all(batcher, range(2))
        await turns()
        waited = gate.batches == []
        late = submit_all(batcher, range(2, 3))
        await asyncio.gather(*early, *late)

    assert waited
    assert gate.batches == [3]


async def test_draining_ends_the_linger() -> None:
    """A batch that waits for company goes at once when the batcher stops."""
    async with batcher_of(lambda rows, _: np.stack(rows) + 1, max_queue_delay=3600.0) as batcher:
        callers = submit_all(batcher, range(1))
        await turns()
        await batcher.drain()
        (answer,) = await asyncio.gather(*callers)

    assert answer.output.item() == 1


async def test_an_idle_batcher_does_nothing() -> None:
    """Nothing polls: with no request, the event loop has no step to run and no timer to wait for."""
    loop = asyncio.get_running_loop()
    async with batcher_of(lambda rows, _: rows) as batcher:
        await batcher.submit(np.zeros(1, np.float32))
        await turns()
        idle = (list(loop._ready), loop._scheduled)  # type: ignore[attr-defined]  # noqa: SLF001 (no public way to ask)

    assert idle == ([], [])


async def test_a_full_queue_refuses_at_once() -> None:
    """One row more than the capacity is refused; those that wait are answered."""
    gate = Gate()
    async with batcher_of(gate, capacity=2) as batcher:
        running = submit_all(batcher, range(1))
        await entered(gate)
        waiting = submit_all(batcher, range(1, 3))
        await turns()
        with pytest.raises(Overloaded):
            await batcher.submit(np.zeros(1, np.float32))
        gate.open(times=2)
        await asyncio.gather(*running, *waiting)


async def test_retry_after_is_the_work_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seconds of the batch that runs are over, and six rows in batches of two wait: come back in seventeen."""
    gate, now = Gate(), [0.0]
    monkeypatch.setattr("app.batching.batcher.time.perf_counter", lambda: now[0])
    async with batcher_of(gate, capacity=6, max_batch=2, expected_seconds=lambda _: 5.0) as batcher:
        running = submit_all(batcher, range(1))
        await entered(gate)
        now[0] = 3.0
        waiting = submit_all(batcher, range(6))
        await turns()
        with pytest.raises(Overloaded) as refusal:
            await batcher.submit(np.zeros(1, np.float32))
        gate.open(times=4)
        await asyncio.gather(*running, *waiting)

    assert refusal.value.retry_after == 2 + 3 * 5


async def test_a_row_that_cannot_make_its_deadline_is_refused_when_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told from what batches take: too late behind the work ahead is `Overloaded`, too late in any case is not."""
    gate = Gate()
    monkeypatch.setattr("app.batching.batcher.time.perf_counter", lambda: 0.0)
    async with batcher_of(gate, max_batch=1, expected_seconds=lambda _: 5.0) as batcher:
        running = submit_all(batcher, range(1))
        await entered(gate)
        waiting = submit_all(batcher, range(2))
        await turns()
        with pytest.raises(Overloaded) as behind:
            await batcher.submit(np.zeros(1, np.float32), deadline=19.9)
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(np.zeros(1, np.float32), deadline=4.9)
        in_time = asyncio.create_task(batcher.submit(np.zeros(1, np.float32), deadline=20.0))
        gate.open(times=4)
        await asyncio.gather(*running, *waiting, in_time)

    assert behind.value.retry_after == 15
    assert gate.batches == [1, 1, 1, 1]


async def test_a_row_that_cannot_make_its_deadline_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch before took longer than expected: who can no longer be answered in time is told, the others are run."""
    gate, now = Gate(), [0.0]
    monkeypatch.setattr("app.batching.batcher.time.perf_counter", lambda: now[0])
    async with batcher_of(gate, expected_seconds=lambda _: 5.0) as batcher:
        running = submit_all(batcher, range(1))
        await entered(gate)
        late, early = (
            asyncio.create_task(batcher.submit(np.zeros(1, np.float32), deadline=deadline)) for deadline in (12.0, 99.0)
        )
        await turns()
        now[0] = 8.0
        gate.open(times=2)
        await asyncio.gather(*running, early)
        with pytest.raises(DeadlineExceeded):
            await late

    assert gate.batches == [1, 1]


@pytest.mark.parametrize("place", ["queue", "engine"])
async def test_nobody_waits_past_the_deadline(place: str) -> None:
    """Whatever the engine does, a row is told at its deadline; it leaves the queue, and did not walk away."""
    gate, left = Gate(), list[str]()
    async with batcher_of(gate, max_batch=1, on_cancel=left.append) as batcher:
        before = submit_all(batcher, range(place == "queue"))
        if before:
            await entered(gate)
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(np.zeros(1, np.float32), deadline=time.perf_counter() + 0.02)
        waiting = batcher.waiting
        gate.open(times=2)
        await asyncio.gather(*before)

    assert (waiting, left) == (0, [])


async def test_what_is_being_decoded_counts_where_the_engine_is_slow() -> None:
    """Behind rows that wait, images on their way here take places; before an idle engine they do not."""
    gate = Gate()
    async with batcher_of(gate, capacity=3, max_batch=1) as batcher:
        batcher.admit(coming=3)
        running = submit_all(batcher, range(1))
        await entered(gate)
        waiting = submit_all(batcher, range(1))
        await turns()
        batcher.admit(coming=1)
        with pytest.raises(Overloaded):
            batcher.admit(coming=2)
        gate.open(times=2)
        await asyncio.gather(*running, *waiting)


async def test_callers_that_come_and_go_leave_nothing_behind() -> None:
    """A row is taken out of the queue when its caller leaves: the queue cannot grow past its capacity that way."""
    gate = Gate()
    async with batcher_of(gate, capacity=3) as batcher:
        running = submit_all(batcher, range(1))
        await entered(gate)
        for _ in range(20):
            (caller,) = submit_all(batcher, range(1))
            await turns()
            caller.cancel()
            await turns()
        left = len(batcher._queue)  # noqa: SLF001 (what holds the memory)
        gate.open()
        await asyncio.gather(*running)

    assert left == 0


async def test_a_cancelled_caller_does_not_affect_its_batch_mates() -> None:
    """A caller that leaves while its batch runs is skipped when the answers are handed out; the others get theirs."""
    gate, left = Gate(), list[str]()
    async with batcher_of(gate, on_cancel=left.append) as batcher:
        first = submit_all(batcher, range(1))
        await entered(gate)
        mates = submit_all(batcher, range(1, 5))
        gate.open()
        await entered(gate)
        mates[1].cancel()
        gate.open()
        answers = await asyncio.gather(*first, *mates, return_exceptions=True)

    assert isinstance(answers[2], asyncio.CancelledError)
    assert [answer.output.item() for answer in answers if isinstance(answer, InferenceResult)] == [1, 2, 4, 5]
    assert left == ["infer"]


async def test_a_caller_that_left_the_queue_is_not_run() -> None:
    """Its row is skipped before the run, and its place in the queue is free again at once."""
    gate, left = Gate(), list[str]()
    async with batcher_of(gate, capacity=3, on_cancel=left.append) as batcher:
        first = submit_all(batcher, range(1))
        await entered(gate)
        waiting = submit_all(batcher, range(1, 4))
        await turns()
        waiting[0].cancel()
        await turns()
        late = submit_all(batcher, range(4, 5))
        gate.open(times=2)
        await asyncio.gather(*first, *waiting[1:], *late)

    assert gate.batches == [1, 3]
    assert left == ["queue"]


async def test_a_failing_engine_reaches_its_batch_and_nobody_else() -> None:
    """Every row of the batch gets the error, the next batch is run."""

    def engine(pixels: Sequence[NDArray[Any]], _: Sequence[bool]) -> Sequence[NDArray[Any]]:
        if 13 in pixels:
            raise RuntimeError("the engine broke")
        return pixels

    reports = list[BatchReport]()
    async with batcher_of(engine, max_batch=8, restart=lambda _: engine, on_batch=reports.append) as batcher:
        answers = await asyncio.gather(*submit_all(batcher, range(12, 15)), return_exceptions=True)
        after = await batcher.submit(np.zeros(1, np.float32))

    assert [EngineFailed] * 3 == [type(answer) for answer in answers]
    assert after.output.item() == 0
    assert [report.failed for report in reports] == [True, False]


def broken(*_: object) -> NDArray[Any]:
    raise RuntimeError("the engine broke")


async def test_a_failed_engine_is_renewed_before_the_next_batch() -> None:
    """The queue waits for the new engine, and meanwhile the batcher says that it does not work."""
    restarting, new = Gate(), Gate()

    def restart(_: int) -> Run:
        restarting([np.zeros(1)])
        return new

    new.open()
    async with batcher_of(broken, max_batch=1, restart=restart) as batcher:
        callers = submit_all(batcher, range(2))
        await entered(restarting)
        meanwhile = (batcher.alive, batcher.works, batcher.waiting)
        restarting.open()
        answers = await asyncio.gather(*callers, return_exceptions=True)
        afterwards = batcher.works

    assert meanwhile == (True, False, 1)
    assert [type(answer) for answer in answers] == [EngineFailed, InferenceResult]
    assert afterwards


async def test_a_stuck_engine_is_given_up_and_renewed() -> None:
    """Its batch fails when `batch_timeout` is over, and the next batch runs in another thread."""
    stuck = Gate()
    restarted = list[int]()

    def expected(_: int) -> float:
        """The engine in its place has all the time that it needs."""
        return 60.0 * len(restarted)

    def restart(index: int) -> Run:
        restarted.append(index)
        return lambda rows, _: np.stack(rows) + 1

    async with batcher_of(
        stuck, max_batch=1, batch_timeout=0.02, restart=restart, expected_seconds=expected
    ) as batcher:
        answers = await asyncio.gather(*submit_all(batcher, range(2)), return_exceptions=True)
        stuck.open()

    assert [type(answer) for answer in answers] == [EngineFailed, InferenceResult]
    assert restarted == [0]


async def test_a_slow_engine_is_not_stuck() -> None:
    """Ten times of what a batch is expected to take are waited for, however small `batch_timeout` is."""
    gate = Gate()
    async with batcher_of(gate, batch_timeout=0.001, expected_seconds=lambda _: 10.0) as batcher:
        callers = submit_all(batcher, range(1))
        await entered(gate)
        await asyncio.sleep(0.01)  # longer than `batch_timeout`
        gate.open()
        (answer,) = await asyncio.gather(*callers)

    assert answer.output.item() == 1


async def test_an_engine_is_renewed_once_until_it_answers() -> None:
    """One that fails right after it was restarted is lost, and with the last one everybody who waits is told."""
    async with batcher_of(broken, max_batch=1, restart=lambda _: broken) as batcher:
        answers = await asyncio.gather(*submit_all(batcher, range(4)), return_exceptions=True)
        with pytest.raises(NotReady):
            await batcher.submit(np.zeros(1, np.float32))
        alive = batcher.alive

    assert [type(answer) for answer in answers] == [EngineFailed, EngineFailed, NotReady, NotReady]
    assert not alive


async def test_an_engine_that_answered_may_be_renewed_again() -> None:
    """Once in a while is not twice in a row."""
    failing = [True, False, True, False]

    def sometimes(pixels: Sequence[NDArray[Any]], _: Sequence[bool]) -> Sequence[NDArray[Any]]:
        if failing.pop(0):
            raise RuntimeError("the engine broke")
        return pixels

    async with batcher_of(sometimes, max_batch=1, restart=lambda _: sometimes) as batcher:
        answers = await asyncio.gather(*submit_all(batcher, range(4)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [EngineFailed, InferenceResult, EngineFailed, InferenceResult]


async def test_the_others_go_on_when_one_engine_is_lost() -> None:
    """What cannot be restarted is no longer asked; the queue is the others'."""
    good = Gate()
    good.open(times=9)
    async with batcher_of(broken, good, max_batch=1) as batcher:
        answers = await asyncio.gather(*submit_all(batcher, range(6)), return_exceptions=True)
        works = batcher.works

    assert [type(answer) for answer in answers].count(EngineFailed) == 1
    assert [type(answer) for answer in answers].count(InferenceResult) == 5
    assert works


async def test_a_wrong_number_of_answers_is_an_engine_failure() -> None:
    """Nobody is answered when the engine returns fewer rows than it was given: they could be anybody's."""
    async with batcher_of(lambda rows, _: rows[1:]) as batcher:
        with pytest.raises(EngineFailed):
            await batcher.submit(np.zeros(1, np.float32))


async def test_drain_finishes_what_is_queued_and_refuses_what_is_new() -> None:
    """Stopping loses nobody who was accepted, and has not stopped before they are answered."""
    gate = Gate()
    batcher = Batcher([gate], max_batch=4, capacity=16)
    batcher.start()
    accepted = submit_all(batcher, range(6))
    await entered(gate)
    drained = asyncio.create_task(batcher.drain())
    await turns()
    with pytest.raises(Draining):
        await batcher.submit(np.zeros(1, np.float32))
    early = drained.done()
    gate.open(times=2)
    answers = await asyncio.gather(*accepted)
    await drained

    assert not early
    assert [answer.output.item() for answer in answers] == [value + 1.0 for value in range(6)]
    assert not batcher.alive


async def test_a_drain_that_takes_too_long_is_given_up() -> None:
    """After its timeout, whoever still waits hears that the service shuts down, whatever the engine does."""
    gate = Gate()
    batcher = Batcher([gate], max_batch=1, capacity=16)
    batcher.start()
    callers = submit_all(batcher, range(3))
    await entered(gate)
    await batcher.drain(timeout=0.01)
    answers = await asyncio.gather(*callers, return_exceptions=True)
    gate.open()

    assert [type(answer) for answer in answers] == [Draining] * 3
    assert not batcher.alive


@pytest.mark.parametrize("defect", ["_hand_out", "BatchReport"])
async def test_a_dead_loop_tells_every_waiter(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the loop itself dies, running and waiting rows get an error, `alive` turns false and nothing is queued."""
    monkeypatch.setattr(f"app.batching.batcher.{defect}", None)
    gate = Gate()
    batcher = Batcher([gate], max_batch=1, capacity=16)
    batcher.start()
    callers = submit_all(batcher, range(3))
    await entered(gate)
    gate.open()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    with pytest.raises(NotReady):
        await batcher.submit(np.zeros(1, np.float32))
    await batcher.drain()

    running = NotReady if defect == "_hand_out" else InferenceResult  # in the second case it had been answered before
    assert [type(answer) for answer in answers] == [running, NotReady, NotReady]
    assert (batcher.alive, batcher.waiting) == (False, 0)


async def test_several_engines_share_the_queue() -> None:
    """While one engine is busy, another takes the next rows."""
    busy, free = Gate(), Gate()
    async with batcher_of(busy, free, max_batch=1) as batcher:
        callers = submit_all(batcher, range(2))
        await entered(busy)
        await entered(free)
        busy.open()
        free.open()
        await asyncio.gather(*callers)

    assert [1] == busy.batches == free.batches


async def test_the_engine_hears_which_rows_ask_for_the_detailed_answer() -> None:
    """QueueEntry by row, in the order of the batch; a batch of which nobody asks says so."""
    gate = Gate()
    async with batcher_of(gate) as batcher:
        first = submit_all(batcher, range(1))
        await entered(gate)
        asks = [asyncio.create_task(batcher.submit(row, return_tokens=row == 2)) for row in rows(range(1, 4))]
        await turns()
        gate.open(times=2)
        await asyncio.gather(*first, *asks)

    assert gate.return_tokens == [[False], [False, True, False]]


async def test_an_answer_carries_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds in the queue and seconds in the engine come with the answer."""
    gate, now = Gate(), [10.0]
    monkeypatch.setattr("app.batching.batcher.time.perf_counter", lambda: now[0])
    async with batcher_of(gate) as batcher:
        first = submit_all(batcher, range(1))
        await entered(gate)
        second = submit_all(batcher, range(1))
        await turns()
        now[0] = 12.0
        gate.open()
        await entered(gate)
        now[0] = 15.0
        gate.open()
        answers = await asyncio.gather(*first, *second)

    assert [(answer.queue_seconds, answer.run_seconds) for answer in answers] == [(0, 2), (2, 3)]


async def test_engines_that_are_free_share_what_waits() -> None:
    """Rows that come together are not left to the engine that wakes first."""
    gates = Gate(), Gate()
    async with batcher_of(*gates, max_batch=8) as batcher:
        callers = submit_all(batcher, range(6))
        for gate in gates:
            await entered(gate)
            gate.open()
        await asyncio.gather(*callers)

    assert [gate.batches for gate in gates] == [[3], [3]]
