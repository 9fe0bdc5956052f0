"""A pool of lightweight HTTP clients, for thousands of requests per second.

The clients share the CPU cores with the server that they measure. Each client keeps one connection.
It parses the response in the protocol callback, without streams or tasks, and reads only the
headers that delimit the body. Knows nothing about images. `clients.py` has clients that read all
headers and clients that misbehave.
"""

import asyncio
import re
from typing import NamedTuple, cast

from benchmarks.load.clients import Address, Broken

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
HEADERS_END, LAST_CHUNK = b"\r\n\r\n", b"\r\n0\r\n\r\n"


class Response(NamedTuple):
    """A complete response: its status code and its body."""

    status: int
    body: bytes


class Client(asyncio.Protocol):
    """One connection with at most one request in flight."""

    def __init__(self) -> None:
        self.is_open = False
        self._waiting: asyncio.Future[Response] | None = None
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def send(self, request: bytes) -> asyncio.Future[Response]:
        """Send a request. Return a future of its response, or of `Broken`."""
        self._waiting = waiting = self._loop.create_future()
        if self._transport is None or not self.is_open:
            waiting.set_exception(Broken("the connection is closed"))
        else:
            self._transport.write(request)
        return waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.is_open = cast("asyncio.Transport", transport), True

    def data_received(self, data: bytes) -> None:
        # Most responses arrive in one piece: they are not copied.
        self._received = received = self._received + data if self._received else data
        end = received.find(HEADERS_END)
        if end < 0:
            return
        start = end + len(HEADERS_END)
        length = LENGTH.search(received, 0, end)
        if length:
            if len(received) >= start + int(length[1]):
                self._finish(received, end, received[start:])
        elif CHUNKED.search(received, 0, end):
            if received.endswith(LAST_CHUNK):
                self._finish(received, end, _join_chunks(received[start:]))
        else:
            self._fail(f"response without a length: {received[:80]!r}")

    def _finish(self, received: bytes, end: int, body: bytes) -> None:
        self._received = b""
        if CLOSE.search(received, 0, end):
            self.close()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(Response(int(received[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection ended: {exc}")

    def _fail(self, reason: str) -> None:
        self.close()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(Broken(reason))

    def close(self) -> None:
        """Close the connection."""
        self.is_open = False
        if self._transport is not None:
            self._transport.close()


def _join_chunks(chunks: bytes) -> bytes:
    """Return the content of a chunked body (RFC 9112, section 7.1)."""
    body = b""
    while chunks:
        length, _, chunks = chunks.partition(b"\r\n")
        body, chunks = body + chunks[: int(length, 16)], chunks[int(length, 16) + 2 :]
    return body


class ClientPool:
    """Clients of one server: as many as there are concurrent requests. Idle clients are reused."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: list[Client] = []

    async def send(self, request: bytes) -> Response:
        """Send a request on an idle or new connection, and return its response.

        Raises:
            Broken: the connection ended before the response was complete.
            OSError: the server refuses the connection.
        """
        client = self._idle.pop() if self._idle else None
        if client is None or not client.is_open:
            client = await self._connect()
        response = await client.send(request)
        self._idle.append(client)
        return response

    async def _connect(self) -> Client:
        _, client = await asyncio.get_running_loop().create_connection(Client, *self._address)
        return client

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().close()
