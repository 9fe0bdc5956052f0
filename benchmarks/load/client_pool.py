"""A crowd of well-behaved callers, light enough for thousands of answers a second on the cores of what is measured.

Each keeps one connection. What comes is read where the event loop delivers it: no stream, no task, no header but the
length. Knows nothing of images. Those who misbehave, and those who read headers, are in `load.py`.
"""

import asyncio
import re
from typing import NamedTuple, cast

from benchmarks.load.clients import Address, Broken

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
LAST = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
HEAD_END, LAST_CHUNK = b"\r\n\r\n", b"\r\n0\r\n\r\n"


class Answer(NamedTuple):
    """A complete answer: its status, and its body as it came."""

    status: int
    body: bytes


class Caller(asyncio.Protocol):
    """One connection, on which one request at a time waits for its answer."""

    def __init__(self) -> None:
        self.is_open = False
        self._waiting: asyncio.Future[Answer] | None = None
        self._came = b""
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def ask(self, sent: bytes) -> asyncio.Future[Answer]:
        """Send a request; its answer is to come, or Broken."""
        self._waiting = waiting = self._loop.create_future()
        if self._transport is None or not self.is_open:
            waiting.set_exception(Broken("the connection is closed"))
        else:
            self._transport.write(sent)
        return waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open from now on."""
        self._transport, self.is_open = cast("asyncio.Transport", transport), True

    def data_received(self, data: bytes) -> None:
        """A piece of the answer, nearly always the whole."""
        self._came = came = self._came + data if self._came else data
        end = came.find(HEAD_END)
        if end < 0:
            return
        start = end + len(HEAD_END)
        length = LENGTH.search(came, 0, end)
        if length:
            if len(came) >= start + int(length[1]):
                self._finish(came, end, came[start:])
        elif CHUNKED.search(came, 0, end):
            if came.endswith(LAST_CHUNK):
                self._finish(came, end, _joined(came[start:]))
        else:
            self._fail(f"an answer without a length: {came[:80]!r}")

    def _finish(self, came: bytes, end: int, body: bytes) -> None:
        self._came = b""
        if LAST.search(came, 0, end):
            self.close()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(Answer(int(came[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits gets no answer any more."""
        self._fail(f"the connection ended: {exc}")

    def _fail(self, why: str) -> None:
        self.close()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(Broken(why))

    def close(self) -> None:
        """Hang up."""
        self.is_open = False
        if self._transport is not None:
            self._transport.close()


def _joined(chunks: bytes) -> bytes:
    """Each behind its length in hexadecimal digits, the last of them empty."""
    body = b""
    while chunks:
        length, _, chunks = chunks.partition(b"\r\n")
        body, chunks = body + chunks[: int(length, 16)], chunks[int(length, 16) + 2 :]
    return body


class Crowd:
    """As many callers as there are requests at once; who is idle is the next to ask."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: list[Caller] = []

    async def ask(self, sent: bytes) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            Broken: there was no complete answer.
            OSError: nobody listens there.
        """
        caller = self._idle.pop() if self._idle else None
        if caller is None or not caller.is_open:
            caller = await self._join()
        answer = await caller.ask(sent)
        self._idle.append(caller)
        return answer

    async def _join(self) -> Caller:
        _, caller = await asyncio.get_running_loop().create_connection(Caller, *self._address)
        return caller

    def close(self) -> None:
        """Everybody hangs up."""
        while self._idle:
            self._idle.pop().close()
