"""Where the rows of one HTTP worker are handed in, in the process of the engines: from its slots to the batcher and back.

Every row that was handed in is answered exactly once; with the answer, its slot is free again.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from app.batching.batcher import Batcher, QueueEntry
from app.batching.types import InferenceResult
from app.processes.channel import ANSWER, ANSWER_OF, DONE, GONE, ROW_OF, SLOT, outcome_of
from app.processes.shared_memory import TensorPool


class BatcherServer:
    """Of one HTTP worker.

    Args:
        batcher: where rows wait.
        slots: that it shares with the HTTP worker.
        send: tells the HTTP worker.
    """

    def __init__(self, batcher: Batcher, slots: TensorPool, send: Callable[[int, bytes], None]) -> None:
        self._batcher, self._slots, self._send = batcher, slots, send
        self._rows: dict[int, QueueEntry] = {}  # by slot

    def take(self, payload: bytes) -> None:
        """A row was handed in."""
        slot, return_tokens, deadline = ROW_OF.unpack(payload)
        try:
            row = self._batcher.enqueue(self._slots.pixels[slot], return_tokens=return_tokens, deadline=deadline)
        except Exception as error:  # noqa: BLE001 (whatever it is, the HTTP worker waits for an answer)
            self._refuse(slot, error)
            return
        self._rows[slot] = row
        row.answer.add_done_callback(partial(self._answer, slot))

    def cancel(self, payload: bytes) -> None:
        """The caller of a row has left; it may have been answered just before."""
        (slot,) = SLOT.unpack(payload)
        if slot in self._rows:
            self._batcher.cancel(self._rows[slot])

    def close(self) -> None:
        """The HTTP worker is no more, nor are the callers of its rows."""
        for row in self._rows.values():
            self._batcher.cancel(row)

    def _answer(self, slot: int, answer: asyncio.Future[InferenceResult]) -> None:
        self._rows.pop(slot).settle()
        if answer.cancelled():
            self._send(ANSWER, ANSWER_OF.pack(slot, GONE, 0.0))
            return
        try:
            output, _, seconds = answer.result()
            self._slots.write(slot, output)
            message = ANSWER_OF.pack(slot, DONE, seconds)
        except Exception as error:  # noqa: BLE001 (of the row, or of the memory that its output goes to)
            self._refuse(slot, error)
        else:
            self._send(ANSWER, message)

    def _refuse(self, slot: int, error: Exception) -> None:
        self._send(ANSWER, ANSWER_OF.pack(slot, *outcome_of(error)))
