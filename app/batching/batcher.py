"""The queue in front of the engines, with dynamic batching.

Is given callables that map a batch to a batch. Knows neither images nor ONNX Runtime.

A batch forms when an engine becomes free, not when a timer fires. The engine takes the images that wait
at that moment. A lone image is run at once, and batches grow with the load.

- The event loop owns the queue. There is no lock, no polling and no sleep.
- An image that cannot meet its deadline is refused on arrival, or fails instead of being run.
- If the client of an image disconnects, the image is skipped before the run, or its result is discarded.
- An image may ask for tokens. What tokens are, and what they cost the batch, is up to the engine.
- If an engine fails or times out, every image of its batch fails, and no other. The engine is restarted.
  If its first batch after a restart fails too, the engine is lost.
- If the last engine is lost, or the batcher itself fails, every queued image fails and `alive` is false.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from app.batching import admission
from app.batching.admission import NEVER, BatcherLimits, BatcherLoad
from app.batching.engine_worker import Array, EngineLost, EngineWorker, Run, cannot_restart
from app.batching.types import UNTRACED, InferenceResult, ignore
from app.errors import DeadlineExceeded, Draining, EngineFailed, NotReady, ServiceError

log = logging.getLogger("swin.batcher")


class BatchReport(NamedTuple):
    """Engine, size and time of one batch that was run."""

    engine: int  # index in the list of engines that the batcher was given
    size: int
    seconds: float
    failed: bool
    traces: Sequence[bytes] = ()  # of the images that are traced


@dataclass(slots=True, eq=False)
class QueueEntry:
    """One image in the queue or in a running batch."""

    pixels: Array
    result: asyncio.Future[InferenceResult]
    return_tokens: bool
    submitted_at: float
    deadline: float
    trace: bytes = UNTRACED
    timer: asyncio.TimerHandle | None = None  # fires at the deadline
    is_dequeued: bool = False  # an engine has taken it from the queue

    def cancel_timer(self) -> None:
        """Cancel the deadline timer. Call this when the result has been used or dropped."""
        if self.timer is not None:
            self.timer.cancel()


def zero_seconds(_: int) -> float:
    """Return 0 s, the default estimate of a batch time where nothing has been measured."""
    return 0.0


class Batcher:
    """One queue of images. Each free engine takes up to `max_batch` of them.

    Args:
        engines: each maps n images to n outputs and blocks. It is called from its own thread.
        capacity: images that may wait. One more is refused.
        max_queue_delay: seconds for which a free engine waits for a fuller batch. 0: no wait.
        expected_seconds: expected time of a batch by its size. Deadlines and `Retry-After` use it.
        batch_timeout, restart: see `EngineWorker`.
        on_batch: called with a report of every batch.
        on_cancel: called with `queue` or `infer` for every image that is cancelled at that stage.
    """

    def __init__(
        self,
        engines: Sequence[Run],
        *,
        max_batch: int,
        capacity: int,
        max_queue_delay: float = 0.0,
        expected_seconds: Callable[[int], float] = zero_seconds,
        batch_timeout: float = NEVER,
        restart: Callable[[int], Run] = cannot_restart,
        on_batch: Callable[[BatchReport], None] = ignore,
        on_cancel: Callable[[str], None] = ignore,
    ) -> None:
        self.alive = False
        self._engine_workers = [
            EngineWorker(index, run, batch_timeout=batch_timeout, restart=restart) for index, run in enumerate(engines)
        ]
        self.limits = BatcherLimits(capacity, max_batch, expected_seconds(1), expected_seconds(max_batch))
        self._max_batch, self._max_queue_delay = max_batch, max_queue_delay
        self._expected_seconds = expected_seconds
        self._on_batch, self._on_cancel = on_batch, on_cancel
        self._queue: deque[QueueEntry] = deque()
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._draining = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start one task per engine on the running event loop."""
        self.alive = True
        self._tasks = [asyncio.create_task(self._run_batches(worker)) for worker in self._engine_workers]

    @property
    def waiting(self) -> int:
        """Number of images in the queue."""
        return len(self._queue)

    @property
    def works(self) -> bool:
        """True if an engine can run a batch now or runs one. False during a restart of the only engine."""
        return self.alive and any(worker.works for worker in self._engine_workers)

    @property
    def running_seconds(self) -> float:
        """Seconds since the start of each running batch, summed over all engines."""
        now = time.perf_counter()
        return sum(now - worker.started_at for worker in self._engine_workers if worker.started_at)

    @property
    def load(self) -> BatcherLoad:
        """Snapshot of the current load."""
        free_at = min((worker.free_at for worker in self._engine_workers), default=NEVER)
        return BatcherLoad(self.alive, self.works, self._draining, self.waiting, len(self._engine_workers), free_at)

    async def drain(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 (the wait ends with an abort, not with TimeoutError)
        """Refuse new images, run the queued ones, then stop. If that takes longer than `timeout` seconds, abort."""
        self._draining = True
        # Wake the workers that wait for images.
        self._arrived.set()
        self._full.set()
        _, unfinished = await asyncio.wait(self._tasks, timeout=timeout) if self._tasks else ((), ())
        if unfinished:
            self.abort()
        self.alive = False

    def abort(self) -> None:
        """Stop now. Every queued or running image fails with `Draining`."""
        self._draining = True
        for task in self._tasks:
            task.cancel()

    def admit(self, *, deadline: float = NEVER, coming: int = 0) -> None:
        """Return if one more image would be accepted. Raises what `admission.admit` raises."""
        admission.admit(self.load, self.limits, deadline=deadline, coming=coming)

    async def submit(
        self, pixels: Array, *, return_tokens: bool = False, deadline: float = NEVER, trace: bytes = UNTRACED
    ) -> InferenceResult:
        """Queue one image and return its result, with tokens if asked for.

        `deadline` is a time on the clock of `time.perf_counter`. If the calling task is cancelled, the
        image is cancelled too. The other images of its batch are not affected. `trace` goes into the
        report of the batch.

        Raises:
            Overloaded, DeadlineExceeded, Draining, NotReady: the image is refused, as by `admit`.
            DeadlineExceeded: the deadline has passed.
            EngineFailed: the batch of this image failed.
        """
        entry = self.enqueue(pixels, return_tokens=return_tokens, deadline=deadline, trace=trace)
        try:
            return await entry.result
        except asyncio.CancelledError:
            self.cancel(entry)
            raise
        finally:
            entry.cancel_timer()

    def enqueue(
        self, pixels: Array, *, return_tokens: bool = False, deadline: float = NEVER, trace: bytes = UNTRACED
    ) -> QueueEntry:
        """Queue one image without waiting for its `result`. Call `cancel_timer` once the result is there.

        Raises:
            Overloaded, DeadlineExceeded, Draining, NotReady: the image is refused, as by `admit`.
        """
        self.admit(deadline=deadline)
        loop = asyncio.get_running_loop()
        entry = QueueEntry(pixels, loop.create_future(), return_tokens, time.perf_counter(), deadline, trace)
        if deadline != NEVER:
            entry.timer = loop.call_later(deadline - entry.submitted_at, self._expire, entry)
        self._queue.append(entry)
        self._arrived.set()
        if self.waiting >= self._max_batch:
            self._full.set()
        return entry

    def cancel(self, entry: QueueEntry) -> None:
        """Remove an image from the queue, or discard its result if it is running: its client disconnected."""
        self._remove(entry)
        entry.result.cancel()
        if not entry.result.cancelled():
            entry.result.exception()  # retrieve the exception, otherwise asyncio logs it
        self._on_cancel("infer" if entry.is_dequeued else "queue")

    def _remove(self, entry: QueueEntry) -> None:
        with contextlib.suppress(ValueError):  # it is running, or it has failed with the whole queue
            self._queue.remove(entry)

    def _expire(self, entry: QueueEntry) -> None:
        self._remove(entry)
        _fail([entry], DeadlineExceeded)

    async def _run_batches(self, worker: EngineWorker) -> None:
        batch: list[QueueEntry] = []
        try:
            while batch := await self._next_batch():
                if not await self._run(batch, worker):
                    await worker.restart()
        except asyncio.CancelledError:
            self._fail_all(batch, Draining)
            raise
        except EngineLost:
            log.critical("engine lost", extra={"engine": worker.index})
            self._engine_workers.remove(worker)
            if not self._engine_workers:
                self._fail_all([], NotReady)
        except BaseException:
            log.exception("batcher failed")
            self._fail_all(batch, NotReady)
            raise
        finally:
            worker.close()

    async def _next_batch(self) -> list[QueueEntry]:
        """Wait for the next batch. Return an empty list once the batcher has drained."""
        while True:
            if self._max_queue_delay:
                await self._wait_until_full()
            batch = self._dequeue()
            if batch or self._draining:
                return batch
            self._arrived.clear()  # loses no arrival: there is no `await` after `_dequeue` found the queue empty
            await self._arrived.wait()

    async def _wait_until_full(self) -> None:
        if 0 < self.waiting < self._max_batch and not self._draining:
            self._full.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._max_queue_delay):
                    await self._full.wait()

    def _dequeue(self) -> list[QueueEntry]:
        """Take up to `max_batch` images that can still meet their deadlines. Fail the others on the way.

        If several engines are free, each takes an equal share of the queue.
        """
        if not self._queue:
            return []
        batch: list[QueueEntry] = []
        free = sum(worker.is_free for worker in self._engine_workers)  # at least 1: the worker of this task
        max_size = min(-(-self.waiting // free), self._max_batch)
        ends_at = time.perf_counter() + self._expected_seconds(max_size)
        while self._queue and len(batch) < max_size:
            entry = self._queue.popleft()
            entry.is_dequeued = True
            if entry.deadline < ends_at:
                _fail([entry], DeadlineExceeded)
            elif not entry.result.done():  # done: its client disconnected in this event-loop iteration
                batch.append(entry)
        return batch

    async def _run(self, batch: list[QueueEntry], worker: EngineWorker) -> bool:
        """Run a batch and deliver its results. Return False if the engine failed."""
        started_at = time.perf_counter()
        outputs = await worker.attempt(partial(_call_engine, batch), self._expected_seconds(len(batch)))
        seconds = time.perf_counter() - started_at
        if outputs is None:
            _fail(batch, EngineFailed)
        else:
            _deliver(batch, outputs, started_at, seconds)
        traces = [entry.trace for entry in batch if entry.trace != UNTRACED]
        self._on_batch(BatchReport(worker.index, len(batch), seconds, failed=outputs is None, traces=traces))
        return outputs is not None

    def _fail_all(self, running: list[QueueEntry], error: Callable[[], ServiceError]) -> None:
        self.alive = False
        _fail([*running, *self._queue], error)
        self._queue.clear()


def _call_engine(batch: Sequence[QueueEntry], run: Run) -> Collection[Any]:
    """Call the engine, in its own thread, and check the number of its outputs."""
    outputs = run([entry.pixels for entry in batch], [entry.return_tokens for entry in batch])
    if len(outputs) != len(batch):
        raise ValueError(f"the engine returned {len(outputs)} outputs for {len(batch)} images")
    return outputs


def _deliver(batch: Sequence[QueueEntry], outputs: Collection[Any], started_at: float, seconds: float) -> None:
    for entry, output in zip(batch, outputs, strict=True):
        if not entry.result.done():
            entry.result.set_result(InferenceResult(output, started_at - entry.submitted_at, seconds))


def _fail(batch: Sequence[QueueEntry], error: Callable[[], ServiceError]) -> None:
    for entry in batch:
        if not entry.result.done():
            entry.result.set_exception(error())  # one per image: a shared exception would collect every traceback
