"""One connection: uvicorn's, with what it lacks: bounds on what a caller may take and how long.

uvicorn bounds neither the time nor the size of a request's head, reads a body that was refused for as long as it comes,
and keeps answers that nobody fetches.
"""

import asyncio
import logging
import re
import time
from http import HTTPStatus
from typing import Literal

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.caller import Caller
from app.envelope import Envelope
from app.errors import Busy, HeadTooLarge, ImageTooLarge, MalformedRequest, ServiceError, SlowSender, TooManyConnections
from app.routes.problems import MEDIA_TYPE, problem
from app.service import Service
from app.settings import Settings

log = logging.getLogger("swin.server")

MOST_HEAD_BYTES = 64 * 2**10
"""Of a request's line and headers, beside the first piece that arrives."""

MOST_PIPELINED = 16
"""Requests that a caller may send without waiting for the answers."""

LINGER_SECONDS = 5
"""How long the rest of a body is read that was refused: a connection closed on unread bytes loses its answer."""

SPARE_CONNECTIONS = 64
"""Beyond the bound, on which a refusal is still said."""

UPGRADE = re.compile(rb"(?<=\r\n)upgrade:", re.IGNORECASE)
"""Asked for by Java's own client with every request. No protocol is spoken but HTTP/1.1, and that is no error; but the
parser, where it sees this header, takes the body for the other protocol."""


class State(ServerState):
    """What all connections share."""

    def __init__(self, settings: Settings, service: Service) -> None:
        super().__init__()
        self.settings, self.service = settings, service


class Connection(HttpToolsProtocol):
    """One connection. What its caller owes, and since when, is looked at once a second: no timer for each request."""

    server_state: State

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # (uvicorn narrows it, too)
        """Take it, if there are not too many."""
        super().connection_made(transport)
        self._settings = self.server_state.settings
        self._keeps_alive = True
        self._envelope = Envelope(transport)
        self._unsent, self._unsent_since = 0, 0.0
        self._is_refused = False
        self._running: RequestResponseCycle | None = None
        self._caller = Caller()  # of the request that is parsed
        self._owe("head")
        if len(self.connections) > self._settings.max_connections + SPARE_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller has gone."""
        super().connection_lost(exc)
        self._tell_running()

    def data_received(self, data: bytes) -> None:
        """Parse, within bounds: a head can have no end, and chunks can be longer than the body they carry."""
        if self._is_refused:
            return
        if self._owed is None:
            self._owe("head")
        if self.scope is None and len(self.connections) > self._settings.max_connections:
            self._refuse(TooManyConnections())
            return
        owed, request = self._owed, self.scope
        super().data_received(_without_upgrade(data) if owed == "head" else data)
        if owed is self._owed and request is self.scope:  # all of it belonged to the same part
            self._count(len(data))

    def send_400_response(self, msg: str) -> None:
        """Like every other refusal, a problem document."""
        self._refuse(MalformedRequest(msg))

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._caller = self.scope["state"]["caller"] = Caller()
        self._owe("head")

    def on_headers_complete(self) -> None:
        """A request begins. Until its body has arrived, its answer does not close the connection."""
        super().on_headers_complete()
        if len(self.pipeline) > MOST_PIPELINED:
            raise ValueError("too many requests at once")  # what uvicorn calls an invalid request
        self._owe("body")
        self._keeps_alive, self.cycle.keep_alive = self.cycle.keep_alive, True
        self.cycle.transport = self._envelope

    def on_message_complete(self) -> None:
        """All of the request is here."""
        super().on_message_complete()
        self._caller.has_sent_all = True
        if self.cycle is self._running:
            self.flow.resume_reading()  # paused for a long body; a caller that leaves is only heard by who reads
        self._owe(None)
        self.cycle.keep_alive = self._keeps_alive and not self.server_state.service.is_draining
        if self.cycle.response_complete and not self.cycle.keep_alive:
            self.transport.close()

    def on_response_complete(self) -> None:
        """The answer has been written, perhaps before all of the request had come."""
        self._envelope.end()
        super().on_response_complete()
        if self._owed == "body":
            self._owe("rest")

    def let_go(self) -> None:
        """Close after the answer to what has been asked."""
        self._keeps_alive = False
        if self.cycle is not None and self._owed is None:
            self.cycle.keep_alive = False

    def check(self, now: float) -> None:
        """Close it if its caller has owed something for too long: a head, the rest of a refused body, or reading."""
        if self.transport.is_closing():
            pass
        elif self._owed == "head" and not self._is_busy and now - self._since > self._settings.header_timeout:
            if self.scope is None:  # to who never said a word, none is said
                self.transport.close()
            else:
                self._refuse(SlowSender("The head of the request did not arrive in time."))
        elif self._owed == "rest" and now - self._since > LINGER_SECONDS:
            self.transport.close()
        unsent = self.transport.get_write_buffer_size()
        if not self._unsent or unsent < self._unsent:
            self._unsent_since = now
        elif now - self._unsent_since > self._settings.body_timeout:
            self.transport.abort()
        self._unsent = unsent

    @property
    def _is_busy(self) -> bool:
        """With an earlier request: what comes after it is not read before it is answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _tell_running(self) -> None:
        """The request that is being answered, that nobody waits any more: uvicorn tells the one that came last."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
            self._running.scope["state"]["caller"].leave()

    def _owe(self, part: Literal["head", "body", "rest"] | None) -> None:
        self._owed, self._since, self._bytes = part, time.monotonic(), 0

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._owed == "head" and self._bytes > MOST_HEAD_BYTES:
            self._refuse(HeadTooLarge())
        elif self._owed == "body" and self._bytes > 2 * self._settings.max_body_mib * 2**20:
            self._refuse(ImageTooLarge("The body is too long as it was sent."))

    def _refuse(self, error: ServiceError) -> None:
        """Outside of any request that the application knows of; what else is sent is read for a while, and dropped."""
        self.server_state.service.metrics.rejected.labels(error.code).inc()
        log.info("refused", extra={"client": self.client and self.client[0], "code": error.code})
        self._is_refused = True
        self._owe("rest")
        self._tell_running()  # whose answer would come after this one
        self.transport.write(_answer(error))
        self.transport.write_eof()


def _without_upgrade(data: bytes) -> bytes:
    end = data.find(b"\r\n\r\n")
    end = len(data) if end < 0 else end
    # Looked at where it stands: behind it can be a quarter of a megabyte of body.
    return UPGRADE.sub(b"x-upgrade:", data[:end]) + data[end:] if UPGRADE.search(data, 0, end) else data


def _answer(error: ServiceError) -> bytes:
    """A whole response, for a connection that is then closed."""
    body = problem(error).model_dump_json().encode()
    retry = f"Retry-After: {error.retry_after}\r\n" if isinstance(error, Busy) else ""
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n{retry}Connection: close\r\n"
        f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
