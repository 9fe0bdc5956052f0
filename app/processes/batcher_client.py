"""The batcher of another process, as an HTTP worker sees it: rows go there in slots, and answers come back in them."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.batching import admission
from app.batching.admission import NEVER, BatcherLimits, BatcherLoad
from app.batching.types import InferenceResult
from app.errors import DeadlineExceeded, Draining, InternalError, NotReady, Overloaded, ServiceError
from app.processes.channel import ANSWER_OF, DONE, FORGET, GONE, ROW, ROW_OF, SLOT, refusal
from app.processes.shared_memory import SharedLoad, TensorPool

log = logging.getLogger("swin.workers")

# The batcher answers at the deadline itself. A row that has no answer so many seconds later has been lost.
GRACE_SECONDS = 2


class Sent(NamedTuple):
    """A row that is on its way."""

    answer: asyncio.Future[InferenceResult]
    return_tokens: bool
    at: float


class BatcherClient:
    """What a classifier needs of a batcher.

    Args:
        slots: shared with the process of the engines.
        board: where that process writes how things stand.
        limits: of its batcher.
        send: tells that process.
    """

    def __init__(
        self, slots: TensorPool, board: SharedLoad, limits: BatcherLimits, send: Callable[[int, bytes], None]
    ) -> None:
        self._slots, self._board, self._terms, self._send = slots, board, limits, send
        self._free = list(range(len(slots.pixels)))
        self._sent: dict[int, Sent] = {}  # by slot
        self._is_draining = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def load(self) -> BatcherLoad:
        """How things stand there."""
        return self._board.read()

    @property
    def alive(self) -> bool:
        """Whether it can still answer."""
        return bool(self.load.is_alive)

    @property
    def works(self) -> bool:
        """Whether it could run a batch now."""
        return bool(self.load.works)

    def admit(self, *, deadline: float = NEVER, coming: int = 0) -> None:
        """Return if a row that came now would be taken; raises as `admission.admit`."""
        if self._is_draining:
            raise Draining
        admission.admit(self.load, self._terms, deadline=deadline, coming=coming)

    async def submit(
        self, pixels: NDArray[np.uint8], *, return_tokens: bool = False, deadline: float = NEVER
    ) -> InferenceResult:
        """As `Batcher.submit`. The time to the other process and back counts as waiting."""
        self.admit(deadline=deadline)
        if not self._free:
            raise Overloaded(admission.seconds_until_run(self.load, self._terms, len(self._sent)))
        slot = self._free[-1]  # the one that was used last: its memory is still near
        self._slots.pixels[slot] = pixels
        self._free.pop()  # from here on the slot comes back with its answer, and not before
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[InferenceResult] = loop.create_future()
        self._sent[slot] = Sent(answer, return_tokens, time.perf_counter())
        self._is_idle.clear()
        timer: asyncio.TimerHandle | None = None
        if deadline != NEVER:
            timer = loop.call_later(deadline - time.perf_counter() + GRACE_SECONDS, self._expire, slot, answer)
        try:
            self._hand_in(slot, return_tokens=return_tokens, deadline=deadline)
            return await answer
        except asyncio.CancelledError:
            if self._holds(slot, answer):
                self._send(FORGET, SLOT.pack(slot))
            if not answer.cancelled():
                answer.exception()  # it had just been answered: an error that nobody fetched would be logged
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def take_answer(self, payload: bytes) -> None:
        """A slot came back. It is free, whatever can be made of the answer in it."""
        slot, outcome, seconds = ANSWER_OF.unpack(payload)
        sent = self._sent.pop(slot)
        try:
            if not sent.answer.done():
                self._settle(slot, sent, outcome, seconds)
        except Exception:
            log.exception("answer not read", extra={"slot": slot})
            sent.answer.set_exception(InternalError())
        finally:
            self._free.append(slot)
            self._look_if_idle()

    def look(self) -> None:
        """If nobody is there any more to answer, say so to whoever waits; their slots stay taken."""
        if not self.alive:
            self._give_up(NotReady)

    async def drain(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 (a bound, after which we go on)
        """Refuse what is new, wait for what is on its way; after `timeout` seconds, no longer."""
        self._is_draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._is_idle.wait()
        self.abort()

    def abort(self) -> None:
        """Stop now: whoever waits hears that the service shuts down."""
        self._is_draining = True
        self._give_up(Draining)
        self._is_idle.set()

    def _hand_in(self, slot: int, *, return_tokens: bool, deadline: float) -> None:
        try:
            self._send(ROW, ROW_OF.pack(slot, return_tokens, deadline))
        except BaseException:
            del self._sent[slot]
            self._free.append(slot)
            self._look_if_idle()
            raise

    def _settle(self, slot: int, sent: Sent, outcome: int, seconds: float) -> None:
        if outcome == DONE:
            queued = time.perf_counter() - sent.at - seconds
            sent.answer.set_result(
                InferenceResult(self._slots.read(slot, return_tokens=sent.return_tokens), queued, seconds)
            )
        elif outcome == GONE:  # this HTTP worker forgot no such row, or its answer would be done
            sent.answer.set_exception(InternalError())
        else:
            sent.answer.set_exception(refusal(outcome, seconds))

    def _expire(self, slot: int, answer: asyncio.Future[InferenceResult]) -> None:
        """End the wait for an answer that is overdue. The slot stays taken: its pixels may still be read."""
        if self._holds(slot, answer) and not answer.done():
            log.error("row not answered", extra={"slot": slot})
            answer.set_exception(DeadlineExceeded())
            self._look_if_idle()
            self._send(FORGET, SLOT.pack(slot))

    def _look_if_idle(self) -> None:
        if all(sent.answer.done() for sent in self._sent.values()):  # mostly, the first one is not
            self._is_idle.set()

    def _holds(self, slot: int, answer: asyncio.Future[InferenceResult]) -> bool:
        """Whether the slot is still that answer's: before a task hears that it is cancelled, it can be another's."""
        return slot in self._sent and self._sent[slot].answer is answer

    def _give_up(self, error: Callable[[], ServiceError]) -> None:
        for sent in self._sent.values():
            if not sent.answer.done():
                sent.answer.set_exception(error())
