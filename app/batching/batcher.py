"""The queue in front of the engines. Knows neither images nor ONNX: it is given callables that map a batch to a batch.

A batch forms because an engine became free, not because a clock ran: whoever waits when an engine asks for work goes
with it, so a lone request never waits and a busy service batches by itself.

- The event loop owns the queue; nothing else touches it. No lock, no polling, no sleep.
- A row that cannot make its deadline is refused when it comes, or failed instead of run.
- A row whose caller left is skipped before the run, and again when the answers are handed out.
- A row may ask for the return_tokens answer; what that is, and what it costs the batch, is the engine's own affair.
- A failing or stuck engine reaches every row of its batch and nobody else. It is restarted, once until it answers again.
- If the last engine is lost, or the loop itself dies, every waiter hears of it and `alive` turns false.
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
from app.batching.engine_worker import Array, EngineLost, EngineWorker, Run, no_other
from app.batching.types import InferenceResult, ignore
from app.errors import DeadlineExceeded, Draining, EngineFailed, NotReady, ServiceError

log = logging.getLogger("swin.batcher")


class BatchReport(NamedTuple):
    """One batch that was run."""

    engine: int  # its place in the list the batcher was given
    size: int
    seconds: float
    failed: bool


@dataclass(slots=True, eq=False)
class QueueEntry:
    """One image that waits for its answer."""

    pixels: Array
    answer: asyncio.Future[InferenceResult]
    return_tokens: bool
    submitted: float
    deadline: float
    timer: asyncio.TimerHandle | None = None  # at the deadline
    is_taken: bool = False  # by an engine

    def settle(self) -> None:
        """Cancel the deadline timer. Call this when the answer has been used or dropped."""
        if self.timer is not None:
            self.timer.cancel()


def at_once(_: int) -> float:
    """What a batch takes where nobody measured."""
    return 0.0


class Batcher:
    """Rows wait in one queue; each engine takes up to `max_batch` of them whenever it is free.

    Args:
        engines: each answers n rows with n outputs and blocks; it is called from a thread of its own.
        capacity: rows that may wait; one more is refused at once.
        max_queue_delay: seconds a free engine waits for a fuller batch. 0: it never does.
        expected_seconds: what a batch of so many rows takes; deadlines and `Retry-After` are estimated from it.
        batch_timeout, restart: see `EngineWorker`.
        on_batch: told of every batch that was run.
        on_cancel: called with `queue` or `infer` for every row whose caller left there.
    """

    def __init__(
        self,
        engines: Sequence[Run],
        *,
        max_batch: int,
        capacity: int,
        max_queue_delay: float = 0.0,
        expected_seconds: Callable[[int], float] = at_once,
        batch_timeout: float = NEVER,
        restart: Callable[[int], Run] = no_other,
        on_batch: Callable[[BatchReport], None] = ignore,
        on_cancel: Callable[[str], None] = ignore,
    ) -> None:
        self.alive = False
        self._seats = [
            EngineWorker(index, run, batch_timeout=batch_timeout, restart=restart) for index, run in enumerate(engines)
        ]
        self.limits = BatcherLimits(capacity, max_batch, expected_seconds(1), expected_seconds(max_batch))
        self._max_batch, self._linger = max_batch, max_queue_delay
        self._expected_seconds = expected_seconds
        self._on_batch, self._on_leave = on_batch, on_cancel
        self._queue: deque[QueueEntry] = deque()
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._draining = False
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to serve, on the running event loop."""
        self.alive = True
        self._workers = [asyncio.create_task(self._work(seat)) for seat in self._seats]

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return len(self._queue)

    @property
    def works(self) -> bool:
        """Whether an engine runs, or could run, batches now: false while the only one is being restarted."""
        return self.alive and any(seat.works for seat in self._seats)

    @property
    def running_seconds(self) -> float:
        """How long the batches that run now have been run, over all engines."""
        now = time.perf_counter()
        return sum(now - seat.began_at for seat in self._seats if seat.began_at)

    @property
    def load(self) -> BatcherLoad:
        """How things stand."""
        free_at = min((seat.free_at for seat in self._seats), default=NEVER)
        return BatcherLoad(self.alive, self.works, self._draining, self.waiting, len(self._seats), free_at)

    async def drain(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 (a bound, after which we go on)
        """Refuse what is new, finish what is queued, stop; after `timeout` seconds, stop without finishing."""
        self._draining = True
        self._arrived.set()
        self._full.set()
        _, late = await asyncio.wait(self._workers, timeout=timeout) if self._workers else ((), ())
        if late:
            self.abort()
        self.alive = False

    def abort(self) -> None:
        """Stop now: whoever waits, or is being run, hears that the service shuts down."""
        self._draining = True
        for worker in self._workers:
            worker.cancel()

    def admit(self, *, deadline: float = NEVER, coming: int = 0) -> None:
        """Return if a row that came now would be taken; raises as `admission.admit`."""
        admission.admit(self.load, self.limits, deadline=deadline, coming=coming)

    async def submit(self, pixels: Array, *, return_tokens: bool = False, deadline: float = NEVER) -> InferenceResult:
        """Wait for one row's answer, plain or return_tokens. Cancelling the caller takes the row out and disturbs nobody.

        `deadline` is a time of `time.perf_counter`.

        Raises:
            Overloaded, DeadlineExceeded, Draining, NotReady: as `admit`.
            DeadlineExceeded: the deadline came first.
            EngineFailed: the batch this row was in could not be run.
        """
        row = self.enqueue(pixels, return_tokens=return_tokens, deadline=deadline)
        try:
            return await row.answer
        except asyncio.CancelledError:
            self.cancel(row)
            raise
        finally:
            row.settle()

    def enqueue(self, pixels: Array, *, return_tokens: bool = False, deadline: float = NEVER) -> QueueEntry:
        """Queue a row for who does not wait here: it looks at the row's `answer`, then lets it `settle`.

        Raises:
            Overloaded, DeadlineExceeded, Draining, NotReady: as `admit`.
        """
        self.admit(deadline=deadline)
        loop = asyncio.get_running_loop()
        row = QueueEntry(pixels, loop.create_future(), return_tokens, time.perf_counter(), deadline)
        if deadline != NEVER:
            row.timer = loop.call_later(deadline - row.submitted, self._expire, row)
        self._queue.append(row)
        self._arrived.set()
        if self.waiting >= self._max_batch:
            self._full.set()
        return row

    def cancel(self, row: QueueEntry) -> None:
        """Its caller has left: it is not run any more, or not answered."""
        self._remove(row)
        row.answer.cancel()
        if not row.answer.cancelled():
            row.answer.exception()  # it had just been answered: an error that nobody fetched would be logged
        self._on_leave("infer" if row.is_taken else "queue")

    def _remove(self, row: QueueEntry) -> None:
        with contextlib.suppress(ValueError):  # no longer in the queue: it is being run, or everybody was told off
            self._queue.remove(row)

    def _expire(self, row: QueueEntry) -> None:
        self._remove(row)
        _fail([row], DeadlineExceeded)

    async def _work(self, seat: EngineWorker) -> None:
        rows: list[QueueEntry] = []
        try:
            while rows := await self._next_rows():
                if not await self._run(rows, seat):
                    await seat.restart()
        except asyncio.CancelledError:
            self._give_up(rows, Draining)
            raise
        except EngineLost:
            log.critical("engine %d is lost", seat.index)
            self._seats.remove(seat)
            if not self._seats:
                self._give_up([], NotReady)
        except BaseException:
            log.exception("the batcher died")
            self._give_up(rows, NotReady)
            raise
        finally:
            seat.close()

    async def _next_rows(self) -> list[QueueEntry]:
        """The rows of the next batch, as soon as there is one; none once the batcher is drained."""
        while True:
            if self._linger:
                await self._wait_for_more()
            rows = self._take()
            if rows or self._draining:
                return rows
            self._arrived.clear()  # nothing was awaited since `_take` found the queue empty, so no arrival is lost
            await self._arrived.wait()

    async def _wait_for_more(self) -> None:
        if 0 < self.waiting < self._max_batch and not self._draining:
            self._full.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._linger):
                    await self._full.wait()

    def _take(self) -> list[QueueEntry]:
        """Rows that can still make their deadline, up to `max_batch`; those before them that cannot are told so.

        With several engines free, each takes its share of what waits.
        """
        if not self._queue:
            return []
        rows: list[QueueEntry] = []
        free = sum(seat.is_free for seat in self._seats)  # the one that takes them, and perhaps others
        most = min(-(-self.waiting // free), self._max_batch)
        ends = time.perf_counter() + self._expected_seconds(most)
        while self._queue and len(rows) < most:
            row = self._queue.popleft()
            row.is_taken = True
            if row.deadline < ends:
                _fail([row], DeadlineExceeded)
            elif not row.answer.done():  # otherwise its caller has left in this very turn of the loop
                rows.append(row)
        return rows

    async def _run(self, rows: list[QueueEntry], seat: EngineWorker) -> bool:
        """Run a batch and answer its rows; whether the engine did its work."""
        started = time.perf_counter()
        outputs = await seat.attempt(partial(_run_batch, rows), self._expected_seconds(len(rows)))
        seconds = time.perf_counter() - started
        if outputs is None:
            _fail(rows, EngineFailed)
        else:
            _deliver(rows, outputs, started, seconds)
        self._on_batch(BatchReport(seat.index, len(rows), seconds, failed=outputs is None))
        return outputs is not None

    def _give_up(self, running: list[QueueEntry], error: Callable[[], ServiceError]) -> None:
        self.alive = False
        _fail([*running, *self._queue], error)
        self._queue.clear()


def _run_batch(rows: Sequence[QueueEntry], run: Run) -> Collection[Any]:
    """In the engine's own thread."""
    outputs = run([row.pixels for row in rows], [row.return_tokens for row in rows])
    if len(outputs) != len(rows):
        raise ValueError(f"the engine gave {len(outputs)} answers for {len(rows)} rows")
    return outputs


def _deliver(rows: Sequence[QueueEntry], outputs: Collection[Any], started: float, seconds: float) -> None:
    for row, output in zip(rows, outputs, strict=True):
        if not row.answer.done():
            row.answer.set_result(InferenceResult(output, started - row.submitted, seconds))


def _fail(rows: Sequence[QueueEntry], error: Callable[[], ServiceError]) -> None:
    for row in rows:
        if not row.answer.done():
            row.answer.set_exception(error())  # one each: a shared exception would collect every caller's traceback
