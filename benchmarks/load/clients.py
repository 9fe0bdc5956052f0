"""Callers: HTTP/1.1 over plain streams, in an open or a closed loop. Knows nothing of images.

No client library: callers share the machine with what they measure, so they must be light; and some have to misbehave.
"""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Self

Address = tuple[str, int]

BOUNDARY = "b0undary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}

FRESH_SECONDS = 2.0
"""Idle connections are used again for so long. The service closes them after 5: what is sent at that moment is lost."""


class Broken(Exception):
    """The connection ended, or spoke no HTTP, before there was a complete answer."""


@dataclass(frozen=True)
class Reply:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes

    @property
    def is_last(self) -> bool:
        """Whether the service closes the connection after it: nothing more may be sent there."""
        return self.headers.get("connection") == "close"

    @property
    def name(self) -> str:
        """The status, and the code of a problem document: `200`, `429 overloaded`."""
        if self.headers.get("content-type") != "application/problem+json":
            return str(self.status)
        return f"{self.status} {self.json()['code']}"

    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


def request(path: str, body: bytes = b"", method: str = "POST", headers: Mapping[str, str] | None = None) -> bytes:
    """A request as it goes over the wire."""
    fields = {"Host": "swin", "Content-Length": str(len(body)), **(headers or {})}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def form(field: str, files: Sequence[bytes]) -> bytes:
    """Files as the body of a multipart form; its header is `FORM`."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="image"\r\n\r\n'.encode()
    return b"".join(head + file + b"\r\n" for file in files) + f"--{BOUNDARY}--\r\n".encode()


class Connection:
    """One connection to the service, open or closed by either side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader, self._used, self._is_last = reader, time.perf_counter(), False

    @classmethod
    async def open(cls, address: Address, **options: Any) -> Self:
        """Connect, or raise OSError."""
        return cls(*await asyncio.open_connection(*address, **options))

    @property
    def is_fresh(self) -> bool:
        """Whether the service can be expected to listen here still."""
        is_over = self._is_last or self._reader.at_eof()
        return not is_over and time.perf_counter() - self._used < FRESH_SECONDS

    async def ask(self, sent: bytes) -> Reply:
        """Send a request and wait for its answer, which may come before all is sent.

        Raises:
            Broken: there was no complete answer.
        """
        self.writer.write(sent)
        return await self.reply()

    async def reply(self) -> Reply:
        """The next answer, without interim ones.

        Raises:
            Broken: there was no complete answer.
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
        """Hang up, and tell the service so."""
        self.writer.close()

    def reset(self) -> None:
        """Vanish: what was sent and not read is thrown away, and so is what comes."""
        self.writer.transport.abort()


class Callers:
    """Connections that are kept and used again, as many as there are requests at once."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: deque[Connection] = deque()

    async def ask(self, sent: bytes) -> Reply:
        """Send a request on an idle connection, or on a new one, and wait for its answer.

        Raises:
            Broken: there was no complete answer.
            OSError: nobody listens there.
        """
        async with self.connection() as connection:
            return await connection.ask(sent)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection that is kept if it is left in order."""
        connection = self._fresh() or await Connection.open(self.address)
        try:
            yield connection
        except BaseException:
            connection.reset()
            raise
        self._idle.append(connection)

    def close(self) -> None:
        """Hang up everywhere."""
        while self._idle:
            self._idle.pop().close()

    def _fresh(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh:
                return connection
            connection.close()
        return None


async def open_loop(rate: float, seconds: float, random: Random, call: Callable[[float], Awaitable[None]]) -> None:
    """Callers come when they come, whatever the service does: a Poisson process of `rate` a second.

    `call` is given the time its caller came (of `time.perf_counter`), from which its wait has to be counted.
    """
    arrival = time.perf_counter()
    ends = arrival + seconds
    async with asyncio.TaskGroup() as calls:
        while (arrival := arrival + random.expovariate(rate)) < ends:
            await asyncio.sleep(arrival - time.perf_counter())
            calls.create_task(_call(call, arrival))


async def _call(call: Callable[[float], Awaitable[None]], arrival: float) -> None:
    await call(arrival)


async def closed_loop(callers: int, seconds: float, call: Callable[[], Awaitable[None]]) -> None:
    """So many callers, each of whom calls again as soon as it is answered."""
    ends = time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < ends:
            await call()

    await asyncio.gather(*(caller() for _ in range(callers)))
