"""The queue in front of the engines. Knows neither images nor ONNX: it is given callables that map a batch to a batch.

A batch forms because an engine became free, not because a clock ran: whoever waits when an engine asks for work goes
with it, so a lone request never waits and a busy service batches by itself.

- The event loop owns the queue; nothing else touches it. No lock, no polling, no sleep.
- A row whose caller left is skipped before the run, and again when the answers are handed out.
- A row may ask for the detailed answer; what that is, and what it costs the batch, is the engine's own affair.
- A failing engine reaches every row of its batch and nobody else; the loop lives on.
- If the loop itself dies, every waiter hears of it and `alive` turns false.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.errors import Draining, EngineFailed, NotReady, Overloaded, ServiceError

log = logging.getLogger("swin.batcher")

Array = NDArray[Any]
Run = Callable[[Array, Sequence[bool]], Collection[Any]]
"""Rows (n, …), and which of them ask for the detailed answer → n answers."""


class Answer(NamedTuple):
    """What one row came to, and how long that took."""

    output: Any  # the engine's, as it is
    queue_seconds: float
    run_seconds: float


class BatchReport(NamedTuple):
    """One batch that was run."""

    engine: int  # its place in the list the batcher was given
    size: int
    seconds: float
    failed: bool


@dataclass(slots=True, eq=False)
class Row:
    """One image that waits for its answer."""

    pixels: Array
    answer: asyncio.Future[Answer]
    is_detailed: bool
    submitted: float
    is_taken: bool = False  # by an engine


def ignore(_: Any) -> None:
    """The observer of those who do not observe."""


class Batcher:
    """Rows wait in one queue; each engine takes up to `max_batch` of them whenever it is free.

    Args:
        engines: each answers n rows with n outputs and blocks; it is called from a thread of its own.
        capacity: rows that may wait; one more is refused at once.
        linger: seconds a free engine waits for a fuller batch. 0: it never does.
        on_batch: told of every batch that was run.
        on_leave: called with `queue` or `infer` for every caller that left there.
    """

    def __init__(
        self,
        engines: Sequence[Run],
        *,
        max_batch: int,
        capacity: int,
        linger: float = 0.0,
        on_batch: Callable[[BatchReport], None] = ignore,
        on_leave: Callable[[str], None] = ignore,
    ) -> None:
        self.alive = False
        self._engines, self._max_batch, self._capacity, self._linger = engines, max_batch, capacity, linger
        self._on_batch, self._on_leave = on_batch, on_leave
        self._queue: deque[Row] = deque()
        self._arrived, self._full = asyncio.Event(), asyncio.Event()
        self._draining = False
        self._seconds_per_batch = 0.0  # of the last batch
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to serve, on the running event loop."""
        self.alive = True
        self._workers = [asyncio.create_task(self._work(engine)) for engine in range(len(self._engines))]

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return len(self._queue)

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

    async def submit(self, pixels: Array, *, detailed: bool = False) -> Answer:
        """Wait for one row's answer, plain or detailed. Cancelling the caller takes the row out and disturbs nobody.

        Raises:
            Overloaded: the queue is full.
            Draining, NotReady: the batcher stops, or has died.
            EngineFailed: the batch this row was in could not be run.
        """
        if self._draining:
            raise Draining
        if not self.alive:
            raise NotReady
        if self.waiting >= self._capacity:
            raise Overloaded(self._retry_after())
        row = Row(pixels, asyncio.get_running_loop().create_future(), detailed, time.perf_counter())
        self._enqueue(row)
        try:
            return await row.answer
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):  # no longer in the queue: it is being run, or everybody was told off
                self._queue.remove(row)
            self._on_leave("infer" if row.is_taken else "queue")
            raise

    def _enqueue(self, row: Row) -> None:
        self._queue.append(row)
        self._arrived.set()
        if self.waiting >= self._max_batch:
            self._full.set()

    def _retry_after(self) -> int:
        batches = self.waiting / self._max_batch / len(self._engines)
        return max(1, math.ceil(batches * self._seconds_per_batch))

    async def _work(self, engine: int) -> None:
        rows: list[Row] = []
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{engine}")
        try:
            while rows := await self._next_rows():
                await self._run(rows, engine, thread)
        except asyncio.CancelledError:
            self._give_up(rows, Draining)
            raise
        except BaseException:
            log.exception("the batcher died")
            self._give_up(rows, NotReady)
            raise
        finally:
            thread.shutdown(wait=False)  # waiting for a run that is stuck would hold the event loop

    async def _next_rows(self) -> list[Row]:
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

    def _take(self) -> list[Row]:
        rows: list[Row] = []
        while self._queue and len(rows) < self._max_batch:
            row = self._queue.popleft()
            row.is_taken = True
            if not row.answer.done():  # otherwise its caller has left in this very turn of the loop
                rows.append(row)
        return rows

    async def _run(self, rows: list[Row], engine: int, thread: ThreadPoolExecutor) -> None:
        started = time.perf_counter()
        try:
            outputs = await asyncio.get_running_loop().run_in_executor(thread, _run_batch, self._engines[engine], rows)
        except Exception:
            log.exception("a batch of %d failed", len(rows))
            outputs = None
        seconds = time.perf_counter() - started
        if outputs is None:
            _fail(rows, EngineFailed)
        else:
            _hand_out(rows, outputs, started, seconds)
            self._seconds_per_batch = seconds
        self._on_batch(BatchReport(engine, len(rows), seconds, failed=outputs is None))

    def _give_up(self, running: list[Row], error: Callable[[], ServiceError]) -> None:
        self.alive = False
        _fail([*running, *self._queue], error)
        self._queue.clear()


def _run_batch(run: Run, rows: Sequence[Row]) -> Collection[Any]:
    """In the engine's own thread: copying the rows together is kept off the event loop."""
    outputs = run(np.stack([row.pixels for row in rows]), [row.is_detailed for row in rows])
    if len(outputs) != len(rows):
        raise ValueError(f"the engine gave {len(outputs)} answers for {len(rows)} rows")
    return outputs


def _hand_out(rows: Sequence[Row], outputs: Collection[Any], started: float, seconds: float) -> None:
    for row, output in zip(rows, outputs, strict=True):
        if not row.answer.done():
            row.answer.set_result(Answer(output, started - row.submitted, seconds))


def _fail(rows: Sequence[Row], error: Callable[[], ServiceError]) -> None:
    for row in rows:
        if not row.answer.done():
            row.answer.set_exception(error())  # one each: a shared exception would collect every caller's traceback
