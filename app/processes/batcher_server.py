"""Engine-process side of the batcher for one HTTP worker: from its slots to the queue and back.

Sends exactly one result for every submitted image. After it, the HTTP worker may reuse the slot.
"""

import asyncio
from functools import partial

from app.batching.batcher import Batcher, QueueEntry
from app.batching.types import InferenceResult
from app.processes.messages import (
    CANCEL_STRUCT,
    CANCELLED,
    DONE,
    RESULT_STRUCT,
    SUBMIT_STRUCT,
    MessageType,
    Send,
    encode_error,
)
from app.processes.shared_memory import TensorPool


class BatcherServer:
    """Queue entries of one HTTP worker.

    Args:
        batcher: the queue that all HTTP workers share.
        pool: memory that is shared with this HTTP worker.
        send: sends a message to this HTTP worker.
    """

    def __init__(self, batcher: Batcher, pool: TensorPool, send: Send) -> None:
        self._batcher, self._pool, self._send = batcher, pool, send
        self._entries: dict[int, QueueEntry] = {}  # by slot

    def submit(self, payload: bytes) -> None:
        """Handle SUBMIT: queue the image in a slot."""
        slot, return_tokens, deadline, trace = SUBMIT_STRUCT.unpack(payload)
        pixels = self._pool.pixels[slot]
        try:
            entry = self._batcher.enqueue(pixels, return_tokens=return_tokens, deadline=deadline, trace=trace)
        except Exception as error:  # noqa: BLE001 (the HTTP worker waits for a result, whatever the error is)
            self._send_error(slot, error)
            return
        self._entries[slot] = entry
        entry.result.add_done_callback(partial(self._send_result, slot))

    def cancel(self, payload: bytes) -> None:
        """Handle CANCEL: the client of an image disconnected. Its result may already be on its way."""
        (slot,) = CANCEL_STRUCT.unpack(payload)
        if slot in self._entries:
            self._batcher.cancel(self._entries[slot])

    def close(self) -> None:
        """Cancel every image: the HTTP worker has exited."""
        for entry in self._entries.values():
            self._batcher.cancel(entry)

    def _send_result(self, slot: int, future: asyncio.Future[InferenceResult]) -> None:
        self._entries.pop(slot).cancel_timer()
        if future.cancelled():
            self._send(MessageType.RESULT, RESULT_STRUCT.pack(slot, CANCELLED, 0.0))
            return
        try:
            result = future.result()
            self._pool.write(slot, result.output)
            message = RESULT_STRUCT.pack(slot, DONE, result.run_seconds)
        except Exception as error:  # noqa: BLE001 (the image failed, or its output does not fit the slot)
            self._send_error(slot, error)
        else:  # outside of `try`: an error of the channel is not an error of the image
            self._send(MessageType.RESULT, message)

    def _send_error(self, slot: int, error: Exception) -> None:
        self._send(MessageType.RESULT, RESULT_STRUCT.pack(slot, *encode_error(error)))
