"""A pool of lightweight HTTP/1.1 clients, for thousands of requests per second.

The clients share the CPU cores with the service if it runs on the same machine. Each keeps one connection, with
at most one request in flight. The protocol callback parses the response (httptools), without streams or tasks, and
keeps its status and content only. Knows nothing about images.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from http import HTTPStatus
from ssl import SSLContext
from typing import NamedTuple, cast

import httptools

Address = tuple[str, int]

# Idle connections are reused for 2 s. The service closes them after 5 s, and a request that is sent
# at that moment would be lost.
FRESH_SECONDS = 2.0

# The longest content that is kept. A classification has a few kilobytes; endless content would fill the memory.
MAX_CONTENT_BYTES = 64 * 2**20


class Broken(Exception):
    """The connection ended, or received invalid HTTP, before the response was complete."""


class Response(NamedTuple):
    """A complete response: its status code and its content."""

    status: int
    body: bytes


def request(path: str, body: bytes = b"", method: str = "POST", headers: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a request, with its header section and content."""
    fields = {"Host": "swin", "Content-Length": str(len(body)), **(headers or {})}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


class Client(asyncio.Protocol):
    """One connection with at most one request in flight."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[Response] | None = None
        self._content, self._size = list[bytes](), 0
        self._is_open, self._used = False, time.perf_counter()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._loop = asyncio.get_running_loop()

    @property
    def is_fresh(self) -> bool:
        """True if the connection is still open and has not been idle for `FRESH_SECONDS`."""
        return self._is_open and time.perf_counter() - self._used < FRESH_SECONDS

    def send(self, request: bytes) -> asyncio.Future[Response]:
        """Send a request. Return a future of its response, or of `Broken`."""
        self._waiting = waiting = self._loop.create_future()
        if self._transport is None or not self._is_open:
            waiting.set_exception(Broken("the connection is closed"))
        else:
            self._transport.write(request)
        return waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._is_open = cast("asyncio.Transport", transport), True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"invalid HTTP: {error}")

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the content. The parser calls this."""
        self._content.append(data)
        self._size += len(data)
        if self._size > MAX_CONTENT_BYTES:
            self._fail(f"the response is longer than {MAX_CONTENT_BYTES / 2**20:g} MiB")

    def on_message_complete(self) -> None:
        """Hand out the response. The parser calls this."""
        body, status = b"".join(self._content), self._parser.get_status_code()
        self._content.clear()
        self._size = 0
        if status < HTTPStatus.OK:  # an interim response
            return
        self._used = time.perf_counter()
        if not self._parser.should_keep_alive():
            self.close()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(Response(status, body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection ended: {exc}")

    def _fail(self, reason: str) -> None:
        self.abort()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(Broken(reason))

    def abort(self) -> None:
        """Close the connection at once. `close` waits until the service has read all bytes, which can be never."""
        self._is_open = False
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close the connection."""
        self._is_open = False
        if self._transport is not None:
            self._transport.close()


class ClientPool:
    """Clients of one address: as many as there are concurrent requests. Idle clients are reused.

    Args:
        address: host and port.
        limit: the maximum number of clients. Further requests wait for one. None for no maximum.
        tls: the context for TLS, or None for plain HTTP.
    """

    def __init__(self, address: Address, limit: int | None = None, tls: SSLContext | None = None) -> None:
        self._address, self._tls = address, tls
        self._idle: deque[Client] = deque()
        self._free, self._waiting = limit, deque[asyncio.Future[None]]()

    async def send(self, request: bytes) -> Response:
        """Send a request on an idle or new connection, and return its response.

        Raises:
            Broken: the connection ended before the response was complete.
            OSError: the connection is refused.
        """
        if self._free is None:
            return await self._send(request)
        await self._take_turn()
        try:
            return await self._send(request)
        finally:
            self._end_turn()

    async def _take_turn(self) -> None:
        """Wait until fewer requests than the limit are in flight.

        A semaphore of asyncio searches all waiting requests for each one that is cancelled. For the 200,000 that an
        overload can leave behind, that takes more than a minute.
        """
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # both at the same time: the turn goes on to the next request
                self._end_turn()
            raise

    def _end_turn(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free = (self._free or 0) + 1

    async def _send(self, request: bytes) -> Response:
        client = self._fresh() or await self._connect()
        try:
            response = await client.send(request)
        except BaseException:  # also when the caller is cancelled: the response may still arrive
            client.abort()
            raise
        self._idle.append(client)
        return response

    def _fresh(self) -> Client | None:
        while self._idle:
            client = self._idle.pop()
            if client.is_fresh:
                return client
            client.close()
        return None

    async def _connect(self) -> Client:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(Client, *self._address[:2], ssl=self._tls)
        return client

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().close()
