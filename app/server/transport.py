"""A transport that sends the header section of a response together with its content.

Both then leave in one system call and one packet. Knows no connection and no request.
"""

import asyncio

# The beginning of an interim response, such as 100 Continue. It precedes the final response.
INTERIM = b"HTTP/1.1 1"


class CoalescingTransport(asyncio.Transport):
    """Wrapper of a connection's transport, for responses that are written one after another."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._head = b""  # a header section that waits for its content
        self._is_sent = False  # whether the header section of this response has been sent

    def write(self, data: bytes) -> None:  # type: ignore[override]  # (uvicorn writes bytes only)
        """Hold a header section; send everything else, after the header section that is held."""
        if self._head:
            self._transport.writelines([self._head, data])
            self._head, self._is_sent = b"", True
        elif self._is_sent or data.startswith(INTERIM):
            self._transport.write(data)
        else:
            self._head = data

    def end(self) -> None:
        """End a response: send its header section if no content followed."""
        if self._head:
            self._transport.write(self._head)
        self._head, self._is_sent = b"", False

    def close(self) -> None:
        self.end()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()
