"""Message transport between two processes over one socket pair: messages arrive whole and in order.

A message is a header with its kind and the length of its payload, then the payload. Knows no message kind.
"""

import asyncio
import logging
import struct
from collections.abc import Callable, Mapping
from socket import socket

log = logging.getLogger("swin.processes")

HEADER = struct.Struct("=BI")  # kind, bytes of the payload


class Channel(asyncio.Protocol):
    """One end of the socket pair.

    Args:
        handlers: called with the payload of each message, by its kind.
        on_disconnect: called when the other end has closed.
    """

    def __init__(self, handlers: Mapping[int, Callable[[bytes], None]], on_disconnect: Callable[[], None]) -> None:
        self._handlers, self._on_disconnect = handlers, on_disconnect
        self._partial = b""  # the beginning of a message that has not arrived completely
        self._unsent: list[bytes] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # (it is of a socket)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (a reset and a close are the same here)
        # The handlers refer to this object. Dropping them breaks the cycle and frees megabytes at once.
        self._handlers = {}
        on_disconnect, self._on_disconnect = self._on_disconnect, _nothing
        on_disconnect()

    def data_received(self, data: bytes) -> None:
        data = self._partial + data if self._partial else data
        begin = 0
        while len(data) - begin >= HEADER.size:
            kind, size = HEADER.unpack_from(data, begin)
            end = begin + HEADER.size + size
            if end > len(data):
                break
            self._handle(kind, data[begin + HEADER.size : end])
            begin = end
        self._partial = data[begin:]

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Send a message at the end of this event-loop iteration. Do nothing if the other end has closed.

        All messages of an iteration share one system call. One call each, which also wakes the other
        process, would cost more than all other work on a message.
        """
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent += HEADER.pack(kind, len(payload)), payload

    async def open(self, end: socket) -> None:
        """Start to read from one end of a socket pair. Handlers may be called before this returns."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    def close(self) -> None:
        """Send what is left, then close."""
        self._flush()
        self._transport.close()

    def _handle(self, kind: int, payload: bytes) -> None:
        try:
            self._handlers[kind](payload)
        except Exception:
            # If asyncio saw the error, it would close the channel, and every request of the HTTP worker would fail.
            log.exception("message not handled", extra={"kind": kind, "bytes": len(payload)})

    def _flush(self) -> None:
        # Empty the list first, even if the write fails: `send` schedules a flush only if the list is empty.
        unsent, self._unsent = self._unsent, []
        if unsent and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))


def _nothing() -> None:
    """Do nothing. Replaces `on_disconnect` after the channel has closed."""
