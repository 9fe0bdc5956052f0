"""Tests of `app/batching/batcher.py`: batches, deadlines, cancellation, failures and the drain."""

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
from app.batching.types import UNTRACED, InferenceResult
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


async def loop_iterations() -> None:
    """Run the event loop until every task waits for an engine, a timer or the test."""
    for _ in range(5):
        await asyncio.sleep(0)


async def entered(gate: Gate) -> None:
    await asyncio.to_thread(gate.wait_until_entered)


async def test_each_image_gets_its_own_result() -> None:
    """Results go to the images that they belong to, and images beyond the capacity are refused."""
    async with batcher_of(lambda rows, _: np.stack(rows) * 10) as batcher:
        results = await asyncio.gather(*submit_all(batcher, range(50)), return_exceptions=True)

    outputs = [result.output.item() for result in results if isinstance(result, InferenceResult)]
    assert [value * 10.0 for value in range(len(outputs))] == outputs
    assert len(outputs) == 16  # the capacity


async def test_a_batch_forms_while_the_engine_is_busy() -> None:
    """The images that wait when the engine becomes free form the next batch, up to `max_batch`."""
    gate = Gate()
    async with batcher_of(gate) as batcher:
        first = submit_all(batcher, range(1))
        await entered(gate)
        others = submit_all(batcher, range(1, 7))
        gate.open(times=3)
        await asyncio.gather(*first, *others)

    assert gate.batches == [1, 4, 2]


async def test_the_report_of_a_batch_has_the_traces_of_its_images() -> None:
    """A report has one trace for each traced image of its batch, in order, and none for the others."""
    gate, reports, traces = Gate(), list[BatchReport](), [b"a" * 24, UNTRACED, b"b" * 24]
    async with batcher_of(gate, on_batch=reports.append) as batcher:
        first = submit_all(batcher, range(1))
        await entered(gate)
        images = zip(rows(range(3)), traces, strict=True)
        others = [asyncio.create_task(batcher.submit(row, trace=trace)) for row, trace in images]
        gate.open(times=2)
        await asyncio.gather(*first, *others)

    assert [report.traces for report in reports] == [[], [b"a" * 24, b"b" * 24]]


async def test_a_lone_image_is_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch needs no timer: a lone image is run even if the event loop can schedule none."""
    loop = asyncio.get_running_loop()
    async with batcher_of(lambda rows, _: np.stack(rows) + 1) as batcher:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_later", None)
            patch.setattr(loop, "call_at", None)
            result = await batcher.submit(np.zeros(1, np.float32))

    assert result.output.item() == 1


async def test_max_queue_delay_waits_for_a_fuller_batch() -> None:
    """With `max_queue_delay`, a free engine waits until the batch is full, and then starts at once."""
    gate = Gate()
    gate.open()
    async with batcher_of(gate, max_queue_delay=60.0, max_batch=3) as batcher:
        early = submit_all(batcher, range(2))
        await loop_iterations()
        waited = gate.batches == []
        late = submit_all(batcher, range(2, 3))
        await asyncio.gather(*early, *late)

    assert waited
    assert gate.batches == [3]


async def test_drain_ends_the_queue_delay() -> None:
    """During `drain`, an engine does not wait for a fuller batch."""
    async with batcher_of(lambda rows, _: np.stack(rows) + 1, max_queue_delay=3600.0) as batcher:
        tasks = submit_all(batcher, range(1))
        await loop_iterations()
        await batcher.drain()
        (result,) = await asyncio.gather(*tasks)

    assert result.output.item() == 1


async def test_an_idle_batcher_does_nothing() -> None:
    """The batcher does not poll: without images, the event loop has no callback to run and no timer."""
    loop = asyncio.get_running_loop()
    async with batcher_of(lambda rows, _: rows) as batcher:
        await batcher.submit(np.zeros(1, np.float32))
        await loop_iterations()
        idle = (list(loop._ready), loop._scheduled)  # type: ignore[attr-defined]  # noqa: SLF001 (there is no public attribute)

    assert idle == ([], [])


async def test_a_full_queue_refuses_at_once() -> None:
    """One image beyond the capacity is refused; the images in the queue get results."""
    gate = Gate()
    async with batcher_of(gate, capacity=2) as batcher:
        running = submit_all(batcher, range(1))
        await entered(gate)
        waiting = submit_all(batcher, range(1, 3))
        await loop_iterations()
        with pytest.raises(Overloaded):
            await batcher.submit(np.zeros(1, np.float32))
        gate.open(times=2)
        await asyncio.gather(*running, *waiting)


async def test_retry_after_is_the_work_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Retry-After` is the rest of the running batch, 2 s, and three batches in the queue of 5 s each."""
    gate, now = Gate(), [0.0]
    monkeypatch.setattr("app.batching.batcher.time.perf_counter", lambda: now[0])
    async with batcher_of(gate, capacity=6, max_batch=2, expected_seconds=lambda _: 5.0) as batcher:
        running = submit_all(batcher, range(1))
        await entered(gate)
        now[0] = 3.0
        waiting = submit_all(batcher, range(6))
        await loop_iterations()
        with pytest.raises(Overloaded) as refusal:
            await batcher.submit(np.zeros(1, np.float32))
        gate.open(times=4)
        await asyncio.gather(*running, *waiting)

    assert refusal.value.retry_after == 2 + 3 * 5


async def test_an_image_that_cannot_meet_its_deadline_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the queue is too long for the deadline, `Overloaded`; if one batch is too long, `DeadlineExceeded`."""
    gate = Gate()
    monkeypatch.setattr("app.batching.batcher.time.perf_counter", lambda: 0.0)
    async with batcher_of(gate, max_batch=1, expected_seconds=lambda _: 5.0) as batcher:
        running = submit_all(batcher, range(1))
        await entered(gate)
        waiting = submit_all(batcher, range(2))
        await loop_iterations()
        with pytest.raises(Overloaded) as behind:
            await batcher.submit(np.zeros(1, np.float32), deadline=19.9)
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(np.zeros(1, np.float32), deadline=4.9)
        in_time = asyncio.create_task(batcher.submit(np.zeros(1, np.float32), deadline=20.0))
        gate.open(times=4)
        await asyncio.gather(*running, *waiting, in_time)

    assert behind.value.retry_after == 15
    assert gate.batches == [1, 1, 1, 1]


async def test_an_image_that_cannot_meet_its_deadline_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a batch that took too long, images that can no longer meet their deadlines fail; the others are run."""
    gate, now = Gate(), [0.0]
    monkeypatch.setattr("app.batching.batcher.time.perf_counter", lambda: now[0])
    async with batcher_of(gate, expected_seconds=lambda _: 5.0) as batcher:
        running = submit_all(batcher, range(1))
        await entered(gate)
        late, early = (
            asyncio.create_task(batcher.submit(np.zeros(1, np.float32), deadline=deadline)) for deadline in (12.0, 99.0)
        )
        await loop_iterations()
        now[0] = 8.0
        gate.open(times=2)
        await asyncio.gather(*running, early)
        with pytest.raises(DeadlineExceeded):
            await late

    assert gate.batches == [1, 1]


@pytest.mark.parametrize("place", ["queue", "engine"])
async def test_an_image_fails_at_its_deadline(place: str) -> None:
    """An image fails at its deadline, in the queue or in an engine, and does not count as cancelled."""
    gate, cancelled = Gate(), list[str]()
    async with batcher_of(gate, max_batch=1, on_cancel=cancelled.append) as batcher:
        before = submit_all(batcher, range(place == "queue"))
        if before:
            await entered(gate)
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(np.zeros(1, np.float32), deadline=time.perf_counter() + 0.02)
        waiting = batcher.waiting
        gate.open(times=2)
        await asyncio.gather(*before)

    assert (waiting, cancelled) == (0, [])


async def test_images_being_decoded_count_if_the_engine_is_slow() -> None:
    """Images that are being decoded take places in the queue only while the queue is not empty."""
    gate = Gate()
    async with batcher_of(gate, capacity=3, max_batch=1) as batcher:
        batcher.admit(coming=3)
        running = submit_all(batcher, range(1))
        await entered(gate)
        waiting = submit_all(batcher, range(1))
        await loop_iterations()
        batcher.admit(coming=1)
        with pytest.raises(Overloaded):
            batcher.admit(coming=2)
        gate.open(times=2)
        await asyncio.gather(*running, *waiting)


async def test_cancelled_images_leave_the_queue() -> None:
    """A cancelled image is removed from the queue, so that cancelled images cannot fill the memory."""
    gate = Gate()
    async with batcher_of(gate, capacity=3) as batcher:
        running = submit_all(batcher, range(1))
        await entered(gate)
        for _ in range(20):
            (task,) = submit_all(batcher, range(1))
            await loop_iterations()
            task.cancel()
            await loop_iterations()
        waiting = len(batcher._queue)  # noqa: SLF001 (the list that holds the memory)
        gate.open()
        await asyncio.gather(*running)

    assert waiting == 0


async def test_a_cancelled_image_does_not_affect_its_batch() -> None:
    """If an image is cancelled while its batch runs, its result is discarded; the others get their results."""
    gate, cancelled = Gate(), list[str]()
    async with batcher_of(gate, on_cancel=cancelled.append) as batcher:
        first = submit_all(batcher, range(1))
        await entered(gate)
        second = submit_all(batcher, range(1, 5))
        gate.open()
        await entered(gate)
        second[1].cancel()
        gate.open()
        results = await asyncio.gather(*first, *second, return_exceptions=True)

    assert isinstance(results[2], asyncio.CancelledError)
    assert [result.output.item() for result in results if isinstance(result, InferenceResult)] == [1, 2, 4, 5]
    assert cancelled == ["infer"]


async def test_an_image_that_is_cancelled_in_the_queue_is_not_run() -> None:
    """An image that is cancelled in the queue is not run, and its place is free at once."""
    gate, cancelled = Gate(), list[str]()
    async with batcher_of(gate, capacity=3, on_cancel=cancelled.append) as batcher:
        first = submit_all(batcher, range(1))
        await entered(gate)
        waiting = submit_all(batcher, range(1, 4))
        await loop_iterations()
        waiting[0].cancel()
        await loop_iterations()
        late = submit_all(batcher, range(4, 5))
        gate.open(times=2)
        await asyncio.gather(*first, *waiting[1:], *late)

    assert gate.batches == [1, 3]
    assert cancelled == ["queue"]


async def test_a_failing_engine_fails_only_its_batch() -> None:
    """Every image of the batch gets the error, and the next batch is run."""

    def engine(pixels: Sequence[NDArray[Any]], _: Sequence[bool]) -> Sequence[NDArray[Any]]:
        if 13 in pixels:
            raise RuntimeError("the engine broke")
        return pixels

    reports = list[BatchReport]()
    async with batcher_of(engine, max_batch=8, restart=lambda _: engine, on_batch=reports.append) as batcher:
        results = await asyncio.gather(*submit_all(batcher, range(12, 15)), return_exceptions=True)
        after = await batcher.submit(np.zeros(1, np.float32))

    assert [EngineFailed] * 3 == [type(result) for result in results]
    assert after.output.item() == 0
    assert [report.failed for report in reports] == [True, False]


def broken(*_: object) -> NDArray[Any]:
    raise RuntimeError("the engine broke")


async def test_a_failed_engine_is_restarted_before_the_next_batch() -> None:
    """The queue waits for the new engine, and `works` is false during the restart."""
    restarting, new = Gate(), Gate()

    def restart(_: int) -> Run:
        restarting([np.zeros(1)])
        return new

    new.open()
    async with batcher_of(broken, max_batch=1, restart=restart) as batcher:
        tasks = submit_all(batcher, range(2))
        await entered(restarting)
        meanwhile = (batcher.alive, batcher.works, batcher.waiting)
        restarting.open()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        afterwards = batcher.works

    assert meanwhile == (True, False, 1)
    assert [type(result) for result in results] == [EngineFailed, InferenceResult]
    assert afterwards


async def test_an_engine_that_times_out_is_restarted() -> None:
    """A batch fails after `batch_timeout`, and the next batch runs in another thread."""
    hanging = Gate()
    restarted = list[int]()

    def expected(_: int) -> float:
        """Return an estimate with which only the first engine can time out."""
        return 60.0 * len(restarted)

    def restart(index: int) -> Run:
        restarted.append(index)
        return lambda rows, _: np.stack(rows) + 1

    async with batcher_of(
        hanging, max_batch=1, batch_timeout=0.02, restart=restart, expected_seconds=expected
    ) as batcher:
        results = await asyncio.gather(*submit_all(batcher, range(2)), return_exceptions=True)
        hanging.open()

    assert [type(result) for result in results] == [EngineFailed, InferenceResult]
    assert restarted == [0]


async def test_a_slow_engine_does_not_time_out() -> None:
    """A batch does not time out before ten times its expected time, however small `batch_timeout` is."""
    gate = Gate()
    async with batcher_of(gate, batch_timeout=0.001, expected_seconds=lambda _: 10.0) as batcher:
        tasks = submit_all(batcher, range(1))
        await entered(gate)
        await asyncio.sleep(0.01)  # longer than `batch_timeout`
        gate.open()
        (result,) = await asyncio.gather(*tasks)

    assert result.output.item() == 1


async def test_an_engine_that_fails_right_after_its_restart_is_lost() -> None:
    """If the last engine fails in its first batch after a restart, every queued image fails."""
    async with batcher_of(broken, max_batch=1, restart=lambda _: broken) as batcher:
        results = await asyncio.gather(*submit_all(batcher, range(4)), return_exceptions=True)
        with pytest.raises(NotReady):
            await batcher.submit(np.zeros(1, np.float32))
        alive = batcher.alive

    assert [type(result) for result in results] == [EngineFailed, EngineFailed, NotReady, NotReady]
    assert not alive


async def test_an_engine_may_be_restarted_again_after_a_successful_batch() -> None:
    """An engine that fails, succeeds and fails again is restarted both times."""
    failing = [True, False, True, False]

    def sometimes(pixels: Sequence[NDArray[Any]], _: Sequence[bool]) -> Sequence[NDArray[Any]]:
        if failing.pop(0):
            raise RuntimeError("the engine broke")
        return pixels

    async with batcher_of(sometimes, max_batch=1, restart=lambda _: sometimes) as batcher:
        results = await asyncio.gather(*submit_all(batcher, range(4)), return_exceptions=True)

    assert [type(result) for result in results] == [EngineFailed, InferenceResult, EngineFailed, InferenceResult]


async def test_the_other_engines_go_on_when_one_is_lost() -> None:
    """An engine that cannot be restarted gets no more batches; the others serve the queue."""
    good = Gate()
    good.open(times=9)
    async with batcher_of(broken, good, max_batch=1) as batcher:
        results = await asyncio.gather(*submit_all(batcher, range(6)), return_exceptions=True)
        works = batcher.works

    assert [type(result) for result in results].count(EngineFailed) == 1
    assert [type(result) for result in results].count(InferenceResult) == 5
    assert works


async def test_a_wrong_number_of_outputs_is_an_engine_failure() -> None:
    """If the engine returns fewer outputs than images, every image fails: no output can be assigned."""
    async with batcher_of(lambda rows, _: rows[1:]) as batcher:
        with pytest.raises(EngineFailed):
            await batcher.submit(np.zeros(1, np.float32))


async def test_drain_runs_queued_images_and_refuses_new_ones() -> None:
    """`drain` returns after every accepted image has its result."""
    gate = Gate()
    batcher = Batcher([gate], max_batch=4, capacity=16)
    batcher.start()
    accepted = submit_all(batcher, range(6))
    await entered(gate)
    drained = asyncio.create_task(batcher.drain())
    await loop_iterations()
    with pytest.raises(Draining):
        await batcher.submit(np.zeros(1, np.float32))
    early = drained.done()
    gate.open(times=2)
    results = await asyncio.gather(*accepted)
    await drained

    assert not early
    assert [result.output.item() for result in results] == [value + 1.0 for value in range(6)]
    assert not batcher.alive


async def test_a_drain_that_takes_too_long_aborts() -> None:
    """After the timeout of `drain`, every image that still waits fails with `Draining`."""
    gate = Gate()
    batcher = Batcher([gate], max_batch=1, capacity=16)
    batcher.start()
    tasks = submit_all(batcher, range(3))
    await entered(gate)
    await batcher.drain(timeout=0.01)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    gate.open()

    assert [type(result) for result in results] == [Draining] * 3
    assert not batcher.alive


@pytest.mark.parametrize("defect", ["_deliver", "BatchReport"])
async def test_a_defect_of_the_batcher_fails_every_image(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a task of the batcher fails, running and queued images fail, `alive` is false and the queue is empty."""
    monkeypatch.setattr(f"app.batching.batcher.{defect}", None)
    gate = Gate()
    batcher = Batcher([gate], max_batch=1, capacity=16)
    batcher.start()
    tasks = submit_all(batcher, range(3))
    await entered(gate)
    gate.open()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    with pytest.raises(NotReady):
        await batcher.submit(np.zeros(1, np.float32))
    await batcher.drain()

    running = NotReady if defect == "_deliver" else InferenceResult  # the report follows the delivery
    assert [type(result) for result in results] == [running, NotReady, NotReady]
    assert (batcher.alive, batcher.waiting) == (False, 0)


async def test_several_engines_share_the_queue() -> None:
    """While one engine is busy, another takes the next images."""
    busy, free = Gate(), Gate()
    async with batcher_of(busy, free, max_batch=1) as batcher:
        tasks = submit_all(batcher, range(2))
        await entered(busy)
        await entered(free)
        busy.open()
        free.open()
        await asyncio.gather(*tasks)

    assert [1] == busy.batches == free.batches


async def test_the_engine_is_given_return_tokens_per_image() -> None:
    """The engine gets one `return_tokens` value per image, in the order of the batch."""
    gate = Gate()
    async with batcher_of(gate) as batcher:
        first = submit_all(batcher, range(1))
        await entered(gate)
        asks = [asyncio.create_task(batcher.submit(row, return_tokens=row == 2)) for row in rows(range(1, 4))]
        await loop_iterations()
        gate.open(times=2)
        await asyncio.gather(*first, *asks)

    assert gate.return_tokens == [[False], [False, True, False]]


async def test_a_result_has_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result has the seconds in the queue and the seconds in the engine."""
    gate, now = Gate(), [10.0]
    monkeypatch.setattr("app.batching.batcher.time.perf_counter", lambda: now[0])
    async with batcher_of(gate) as batcher:
        first = submit_all(batcher, range(1))
        await entered(gate)
        second = submit_all(batcher, range(1))
        await loop_iterations()
        now[0] = 12.0
        gate.open()
        await entered(gate)
        now[0] = 15.0
        gate.open()
        results = await asyncio.gather(*first, *second)

    assert [(result.queue_seconds, result.run_seconds) for result in results] == [(0, 2), (2, 3)]


async def test_free_engines_share_the_queue_equally() -> None:
    """Images that arrive together are spread over all free engines."""
    gates = Gate(), Gate()
    async with batcher_of(*gates, max_batch=8) as batcher:
        tasks = submit_all(batcher, range(6))
        for gate in gates:
            await entered(gate)
            gate.open()
        await asyncio.gather(*tasks)

    assert [gate.batches for gate in gates] == [[3], [3]]
