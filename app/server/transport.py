"""Where answers are written to: the head of each is sent together with what follows, in one system call and packet."""

import asyncio

INTERIM = b"HTTP/1.1 1"
"""Begins what is sent before an answer: 100 Continue."""


class CoalescingTransport(asyncio.Transport):
    """Of one connection, whose answers come one after another."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._head = b""  # written, but not sent yet
        self._is_sent = False

    def write(self, data: bytes) -> None:  # type: ignore[override]  # (nothing else is written)
        """Send it, and the head before it; a head waits."""
        if self._head:
            self._transport.writelines([self._head, data])
            self._head, self._is_sent = b"", True
        elif self._is_sent or data.startswith(INTERIM):
            self._transport.write(data)
        else:
            self._head = data

    def end(self) -> None:
        """The answer is complete: a head that nothing followed is sent, and what comes next is another's head."""
        if self._head:
            self._transport.write(self._head)
        self._head, self._is_sent = b"", False

    def close(self) -> None:
        """After what has been written."""
        self.end()
        self._transport.close()

    def is_closing(self) -> bool:
        """As the connection's own."""
        return self._transport.is_closing()
