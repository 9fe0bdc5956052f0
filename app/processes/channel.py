"""Messages between the process of the engines and an HTTP worker: over one socket, whole and in order.

A message is its kind, the length of what follows, and that. Both ends are of one version on one machine.
"""

import asyncio
import logging
import struct
from collections.abc import Callable, Mapping
from socket import socket

from app.errors import (
    DeadlineExceeded,
    Draining,
    EngineFailed,
    InternalError,
    NotReady,
    Overloaded,
    RetryableError,
    ServiceError,
)

log = logging.getLogger("swin.channel")

HEAD = struct.Struct("=BI")

# From an HTTP worker.
HELLO = 0  # it takes connections now
ROW = 1  # a slot holds pixels: its number, whether the return_tokens answer is asked for, the deadline
FORGET = 2  # whose caller has left: the slot's number
COUNTS = 3  # what its metrics say, pickled; once a second and when asked
ASK = 4  # on behalf of one of its callers: a number, and the name of what it wants to know

# To an HTTP worker.
ANSWER = 5  # a slot is free, with or without an output in it: its number, how it went, seconds
COUNT = 6  # send your counts
REPLY = 7  # the number of the question, whether it could be answered, and what is known, pickled
STOP = 8  # finish and leave; said again, at once

SLOT = struct.Struct("=I")
ROW_OF = struct.Struct("=I?d")  # slot, return_tokens, deadline
ANSWER_OF = struct.Struct("=IBd")  # slot, outcome, seconds of the run or until to try again
NUMBER = struct.Struct("=I")
REPLY_OF = struct.Struct("=I?")  # question, whether it could be answered

DONE, GONE = 0, 1
REFUSALS: tuple[type[ServiceError], ...] = (
    Overloaded,
    DeadlineExceeded,
    Draining,
    NotReady,
    EngineFailed,
    InternalError,  # and every error that has no place here
)
FIRST_REFUSAL = 2
"""Outcomes: an output, a caller that left, and from here on the errors."""


class Channel(asyncio.Protocol):
    """One end.

    Args:
        handlers: what is called with the payload of a message, by its kind.
        on_end: called when the other end has gone.
    """

    def __init__(self, handlers: Mapping[int, Callable[[bytes], None]], on_end: Callable[[], None]) -> None:
        self._handlers, self._on_end = handlers, on_end
        self._rest = b""  # of a message that has not come whole
        self._unsent: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # (it is of a socket)
        """It is open."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (however it went)
        """The other end has gone. Who was told of messages is let go: they refer to this, and only so are freed now."""
        self._handlers = {}
        on_end, self._on_end = self._on_end, _nothing
        on_end()

    def data_received(self, data: bytes) -> None:
        """Hand on every message that is whole. A message that cannot be handled is logged, and the next ones follow."""
        data = self._rest + data if self._rest else data
        begin = 0
        while len(data) - begin >= HEAD.size:
            kind, size = HEAD.unpack_from(data, begin)
            end = begin + HEAD.size + size
            if end > len(data):
                break
            self._handle(kind, data[begin + HEAD.size : end])
            begin = end
        self._rest = data[begin:]

    def send(self, kind: int, payload: bytes = b"") -> None:
        """In order, and with whatever else is sent in this turn of the loop; to who has gone, nothing.

        A system call for each message, and the other process woken by it, would cost more than all the rest.
        """
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent += HEAD.pack(kind, len(payload)), payload

    async def open(self, end: socket) -> None:
        """Over one end of a pair of sockets. What the other end has said may be handled before this returns."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    def close(self) -> None:
        """After what has been sent."""
        self._flush()
        self._transport.close()

    def _handle(self, kind: int, payload: bytes) -> None:
        try:
            self._handlers[kind](payload)
        except Exception:
            # Raised to asyncio, the error would close the channel: every request of the HTTP worker would be lost.
            log.exception("message not handled", extra={"kind": kind, "bytes": len(payload)})

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []  # emptied first: `send` schedules a flush only if there is nothing here
        if unsent and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))


def outcome_of(error: BaseException) -> tuple[int, float]:
    """Return the outcome that stands for an error, and the seconds until to try again.

    An error without an outcome of its own is logged here and becomes `InternalError`, as in a service of one process.
    """
    for place, kind in enumerate(REFUSALS):
        if isinstance(error, kind):
            return FIRST_REFUSAL + place, error.retry_after if isinstance(error, RetryableError) else 0.0
    log.error("row failed", exc_info=error)
    return FIRST_REFUSAL + REFUSALS.index(InternalError), 0.0


def refusal(outcome: int, seconds: float) -> ServiceError:
    """Return the error that an outcome stands for; for an outcome that does not exist, `InternalError`."""
    place = outcome - FIRST_REFUSAL
    kind = REFUSALS[place] if 0 <= place < len(REFUSALS) else InternalError
    return Overloaded(seconds) if kind is Overloaded else kind()  # type: ignore[call-arg]  # (all others say it themselves)


def _nothing() -> None:
    """Do nothing. Replaces `on_disconnect` after the channel has closed."""
