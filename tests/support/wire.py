"""A connection without sockets: pieces of bytes go in, the bytes of the responses come out."""

import asyncio
import json
from collections.abc import Iterable, MutableMapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import httptools
import uvicorn

from app.http.middleware.context import Receive, Scope, Send
from app.observability.metrics import Metrics
from app.server.protocol import Connection, State
from app.settings import Settings


class Wire(asyncio.Transport):
    """A transport that records what is written, and reads nothing while it is paused."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.is_paused = self.is_closed = False

    def write(self, data: bytes) -> None:  # type: ignore[override]  # (nothing else is written)
        self.sent += data

    def write_eof(self) -> None:
        """Do nothing: the client reads until the connection is closed."""

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def get_write_buffer_size(self) -> int:
        return 0


class NotingParser(httptools.HttpRequestParser):
    """The parser of httptools, with a record of its input."""

    def __init__(self, protocol: object, given: list[bytes | memoryview]) -> None:
        super().__init__(protocol)
        self._given = given

    def feed_data(self, data: bytes | memoryview) -> None:  # type: ignore[override]  # (of the two that it is given)
        self._given.append(data)
        super().feed_data(data)


class Answer(NamedTuple):
    """One response."""

    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        """Return the content, decoded from JSON."""
        return json.loads(self.content)


class Exchange(NamedTuple):
    """The result of the bytes that were sent on one connection."""

    answers: list[Answer]
    is_closed: bool
    state: State


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with the request as JSON."""
    content, more = b"", True
    while more:
        message: MutableMapping[str, Any] = await receive()
        if message["type"] == "http.disconnect":
            return
        content, more = content + message["body"], message["more_body"]
    asked = {
        "method": scope["method"],
        "path": scope["path"],
        "query": scope["query_string"].decode(),
        "headers": [f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in scope["headers"]],
        "content": content.decode("latin-1"),
    }
    body = json.dumps(asked).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def exchange(pieces: Iterable[bytes], settings: Settings | None = None, others: int = 0) -> Exchange:
    """Send pieces on a connection to `echo`, and return when all requests are answered.

    `others` is the number of other connections that are already open.
    """
    service: Any = SimpleNamespace(metrics=METRICS, is_draining=False)
    state = State(settings or Settings(), service)
    state.connections.update(Connection(CONFIG, state, {}) for _ in range(others))
    connection, wire = Connection(CONFIG, state, {}), Wire()
    connection.connection_made(wire)
    for piece in pieces:
        while wire.is_paused:  # noqa: ASYNC110 (the transport has no event for it)
            await asyncio.sleep(0)
        if wire.is_closed:
            break
        connection.data_received(piece)
        await asyncio.sleep(0)
    while state.tasks and not _waits_for_content(connection):  # noqa: ASYNC110 (likewise)
        await asyncio.sleep(0)
    is_closed = wire.is_closed or connection._is_refused  # noqa: SLF001 (a refused connection is closed later)
    connection.connection_lost(None)
    await asyncio.sleep(0)
    return Exchange(list(_answers(bytes(wire.sent))), is_closed, state)


METRICS = Metrics()
CONFIG = uvicorn.Config(echo, log_config=None)


def _waits_for_content(connection: Connection) -> bool:
    return connection._running is connection.cycle and connection._awaited == "body"  # noqa: SLF001 (nothing more is sent)


def _answers(sent: bytes) -> Iterable[Answer]:
    """Yield the responses in order. A response to HEAD has no content, so it must be the last."""
    while sent:
        head, _, sent = sent.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        length = int(headers.get("content-length", 0))
        yield Answer(int(line.split()[1]), headers, sent[:length])
        sent = sent[length:]
