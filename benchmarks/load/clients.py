"""HTTP/1.1 clients over plain streams, which read all headers and can misbehave, and a loop of a number of calls.

Knows nothing about images. `app.load` has lighter clients, which measure rates and latencies.
"""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

from app.load.client_pool import FRESH_SECONDS, Address, Broken

BOUNDARY = "b0undary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@dataclass(frozen=True)
class Reply:
    """A complete response."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def is_last(self) -> bool:
        """True if the service closes the connection after this response."""
        return self.headers.get("connection") == "close"

    @property
    def name(self) -> str:
        """The status, and the code of a problem document: `200`, `429 overloaded`."""
        content_type = self.headers.get("content-type")
        # On some routes, a problem document is `application/json`, as are responses that are none.
        is_problem = content_type == "application/problem+json" or (
            self.status >= HTTPStatus.BAD_REQUEST and content_type == "application/json" and "code" in self.json()
        )
        return f"{self.status} {self.json()['code']}" if is_problem else str(self.status)

    def json(self) -> Any:
        """Return the parsed body."""
        return json.loads(self.body)


def form(field: str, files: Sequence[bytes]) -> bytes:
    """Return a multipart form body that holds the files. Its content type is in `FORM`."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="image"\r\n\r\n'.encode()
    return b"".join(head + file + b"\r\n" for file in files) + f"--{BOUNDARY}--\r\n".encode()


class Connection:
    """One connection to the service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader, self._used, self._is_last = reader, time.perf_counter(), False

    @classmethod
    async def open(cls, address: Address, **options: Any) -> Self:
        """Connect to the address.

        Raises:
            OSError: the connection is refused.
        """
        return cls(*await asyncio.open_connection(*address, **options))

    @property
    def is_fresh(self) -> bool:
        """True if the connection is still open and has not been idle for `FRESH_SECONDS`."""
        is_over = self._is_last or self._reader.at_eof()
        return not is_over and time.perf_counter() - self._used < FRESH_SECONDS

    async def ask(self, sent: bytes) -> Reply:
        """Send a request and return its response, which may arrive before all bytes are sent.

        Raises:
            Broken: the connection ended before the response was complete.
        """
        self.writer.write(sent)
        return await self.reply()

    async def reply(self) -> Reply:
        """Return the next response, without interim ones (1xx).

        Raises:
            Broken: the connection ended before the response was complete.
        """
        try:
            reply = await self._next_reply()
            while reply.status < 200:  # noqa: PLR2004 (100 Continue)
                reply = await self._next_reply()
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise Broken(f"{type(error).__name__}: {error}") from error
        self._used, self._is_last = time.perf_counter(), reply.is_last
        return reply

    async def _next_reply(self) -> Reply:
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        return Reply(int(first.split(" ")[1]), headers, await self._reader.readexactly(length))

    def close(self) -> None:
        """Close the connection after buffered bytes are sent."""
        self.writer.close()

    def reset(self) -> None:
        """Abort the connection: discard buffered and incoming bytes."""
        self.writer.transport.abort()


class ConnectionPool:
    """Reusable connections to one address: as many as there are concurrent requests."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: deque[Connection] = deque()

    async def ask(self, sent: bytes) -> Reply:
        """Send a request on an idle or new connection, and return its response.

        Raises:
            Broken: the connection ended before the response was complete.
            OSError: the connection is refused.
        """
        async with self.connection() as connection:
            return await connection.ask(sent)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection. After an exception it is reset, otherwise it is kept for reuse."""
        connection = self._fresh() or await Connection.open(self.address)
        try:
            yield connection
        except BaseException:
            connection.reset()
            raise
        self._idle.append(connection)

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _fresh(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh:
                return connection
            connection.close()
        return None


async def timed_loop(clients: int, count: int, call: Callable[[], Awaitable[None]]) -> tuple[float, list[float]]:
    """Run `count` calls by concurrent clients. Return the seconds of all together, and those of each call."""
    left, times = count, list[float]()

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            started = time.perf_counter()
            await call()
            times.append(time.perf_counter() - started)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - started, times
