"""HTTP-worker side of the batcher: pixels go to the engine process in shared slots, and outputs come back in them."""

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
from app.batching.types import UNTRACED, InferenceResult
from app.errors import DeadlineExceeded, Draining, InternalError, NotReady, Overloaded, ServiceError
from app.processes.messages import (
    CANCEL_STRUCT,
    CANCELLED,
    DONE,
    RESULT_STRUCT,
    SUBMIT_STRUCT,
    MessageType,
    Send,
    decode_error,
)
from app.processes.shared_memory import SharedLoad, TensorPool

log = logging.getLogger("swin.processes")

# The batcher fails an image at its deadline. An image without a result this many seconds later is lost.
GRACE_SECONDS = 2


class Submitted(NamedTuple):
    """An image that has been sent to the engine process."""

    result: asyncio.Future[InferenceResult]
    return_tokens: bool
    at: float


class BatcherClient:
    """The batcher of the engine process, with the interface that the classifier uses.

    Args:
        pool: memory that is shared with the engine process.
        shared_load: where the engine process publishes the load of its batcher.
        limits: those of its batcher.
        send: sends a message to the engine process.
    """

    def __init__(self, pool: TensorPool, shared_load: SharedLoad, limits: BatcherLimits, send: Send) -> None:
        self._pool, self._shared_load, self._limits, self._send = pool, shared_load, limits, send
        self._free_slots = list(range(len(pool.pixels)))
        self._submitted: dict[int, Submitted] = {}  # by slot
        self._is_draining = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    @property
    def load(self) -> BatcherLoad:
        """Last published load of the batcher."""
        return self._shared_load.read()

    @property
    def alive(self) -> bool:
        """True if the batcher can still return results."""
        return bool(self.load.is_alive)

    @property
    def works(self) -> bool:
        """True if an engine can run a batch now or runs one."""
        return bool(self.load.works)

    def admit(self, *, deadline: float = NEVER, coming: int = 0) -> None:
        """Return if one more image would be accepted. Raises what `admission.admit` raises."""
        if self._is_draining:
            raise Draining
        admission.admit(self.load, self._limits, deadline=deadline, coming=coming)

    async def submit(
        self,
        pixels: NDArray[np.uint8],
        *,
        return_tokens: bool = False,
        deadline: float = NEVER,
        trace: bytes = UNTRACED,
    ) -> InferenceResult:
        """Queue one image and return its result, as `Batcher.submit` does.

        The time to the engine process and back counts as queue time.
        """
        self.admit(deadline=deadline)
        if not self._free_slots:
            raise Overloaded(admission.seconds_until_run(self.load, self._limits, len(self._submitted)))
        slot = self._free_slots[-1]  # the slot that was used last: its memory is most likely in the CPU cache
        self._pool.pixels[slot] = pixels
        self._free_slots.pop()  # from here on, only the result frees the slot
        loop = asyncio.get_running_loop()
        result: asyncio.Future[InferenceResult] = loop.create_future()
        self._submitted[slot] = Submitted(result, return_tokens, time.perf_counter())
        self._is_idle.clear()
        timer: asyncio.TimerHandle | None = None
        if deadline != NEVER:
            timer = loop.call_later(deadline - time.perf_counter() + GRACE_SECONDS, self._expire, slot, result)
        try:
            self._send_submit(slot, return_tokens=return_tokens, deadline=deadline, trace=trace)
            return await result
        except asyncio.CancelledError:
            if self._owns_slot(slot, result):
                self._send(MessageType.CANCEL, CANCEL_STRUCT.pack(slot))
            if not result.cancelled():
                result.exception()  # retrieve the exception, otherwise asyncio logs it
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def receive_result(self, payload: bytes) -> None:
        """Handle RESULT: resolve the result of an image and free its slot, even if the output cannot be read."""
        slot, outcome, seconds = RESULT_STRUCT.unpack(payload)
        submitted = self._submitted.pop(slot)
        try:
            if not submitted.result.done():
                self._resolve(slot, submitted, outcome, seconds)
        except Exception:
            log.exception("result not read", extra={"slot": slot})
            submitted.result.set_exception(InternalError())
        finally:
            self._free_slots.append(slot)
            self._update_idle()

    def check_engine_process(self) -> None:
        """Fail every submitted image if the batcher is no longer alive. Their slots stay in use."""
        if not self.alive:
            self._fail_all(NotReady)

    async def drain(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 (after it, `drain` aborts)
        """Refuse new images and wait for the submitted ones. Abort after `timeout` seconds."""
        self._is_draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._is_idle.wait()
        self.abort()

    def abort(self) -> None:
        """Stop now. Every submitted image fails with `Draining`."""
        self._is_draining = True
        self._fail_all(Draining)
        self._is_idle.set()

    def _send_submit(self, slot: int, *, return_tokens: bool, deadline: float, trace: bytes) -> None:
        try:
            self._send(MessageType.SUBMIT, SUBMIT_STRUCT.pack(slot, return_tokens, deadline, trace))
        except BaseException:
            del self._submitted[slot]
            self._free_slots.append(slot)
            self._update_idle()
            raise

    def _resolve(self, slot: int, submitted: Submitted, outcome: int, seconds: float) -> None:
        if outcome == DONE:
            queue_seconds = time.perf_counter() - submitted.at - seconds
            output = self._pool.read(slot, return_tokens=submitted.return_tokens)
            submitted.result.set_result(InferenceResult(output, queue_seconds, seconds))
        elif outcome == CANCELLED:  # but not by this HTTP worker: then its result would be done already
            submitted.result.set_exception(InternalError())
        else:
            submitted.result.set_exception(decode_error(outcome, seconds))

    def _expire(self, slot: int, result: asyncio.Future[InferenceResult]) -> None:
        """Fail an image after its result is overdue. The slot stays in use: an engine may still read the pixels."""
        if self._owns_slot(slot, result) and not result.done():
            log.error("result overdue", extra={"slot": slot})
            result.set_exception(DeadlineExceeded())
            self._update_idle()
            self._send(MessageType.CANCEL, CANCEL_STRUCT.pack(slot))

    def _update_idle(self) -> None:
        if all(submitted.result.done() for submitted in self._submitted.values()):  # mostly stops at the first
            self._is_idle.set()

    def _owns_slot(self, slot: int, result: asyncio.Future[InferenceResult]) -> bool:
        """True if the slot still belongs to this result.

        The slot can be freed and reused between `Task.cancel` and the `CancelledError` in the task.
        """
        return slot in self._submitted and self._submitted[slot].result is result

    def _fail_all(self, error: Callable[[], ServiceError]) -> None:
        for submitted in self._submitted.values():
            if not submitted.result.done():
                submitted.result.set_exception(error())
