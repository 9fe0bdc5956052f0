"""One connection: uvicorn's, with what it lacks: bounds on what a caller may take and how long.

uvicorn bounds neither the time nor the size of a request's head, reads a body that was refused for as long as it comes,
and keeps answers that nobody fetches.
"""

import asyncio
import logging
import time
from typing import Literal

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from app.errors import (
    HeadersTooLarge,
    ImageTooLarge,
    InternalError,
    MalformedRequest,
    NotSupported,
    RequestTimeout,
    ServiceError,
    TooManyConnections,
)
from app.http.client_state import ClientState
from app.models.model import Service
from app.server.framing import (
    MAX_HEAD_BYTES,
    REQUEST_LINE,
    Chunks,
    Sections,
    check_beginning,
    content_length,
    fields_of,
    is_for_this_server,
    origin_form,
    without_upgrade,
    wrong_line,
)
from app.server.refusals import cors_fields, request_id, response
from app.server.transport import CoalescingTransport
from app.settings import Settings
from app.system.open_files import SPARE_CONNECTIONS

log = logging.getLogger("swin.server")

MAX_PIPELINED = 16
"""Requests that a caller may send without waiting for the answers."""

LINGER_SECONDS = 5
"""How long the rest of a body is read that was refused: a connection closed on unread bytes loses its answer."""

WRONG_END = "The content does not end where its header section says."


class State(ServerState):
    """What all connections share."""

    def __init__(self, settings: Settings, service: Service) -> None:
        super().__init__()
        self.settings, self.service = settings, service
        self.most_connections = settings.max_connections  # fewer, where files are few


class Connection(HttpToolsProtocol):
    """One connection. What its caller owes, and since when, is looked at once a second: no timer for each request."""

    server_state: State
    _since: float  # when what the client owes was asked of it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # (uvicorn narrows it, too)
        """Take it, if there are not too many."""
        super().connection_made(transport)
        self._settings = self.server_state.settings
        self._keeps_alive = True
        self._sections = Sections()
        self._section = self._method = b""  # the header section that was read last, and its method
        self._is_old = self._is_asked_to_close = self._is_last = False
        self._left: int | Chunks = 0  # of the content that is read
        self._late: ServiceError | None = None  # a refusal that waits for the answers to earlier requests
        self._envelope = CoalescingTransport(transport)
        self._unsent, self._unsent_since = 0, 0.0
        self._is_refused = False
        self._running: RequestResponseCycle | None = None
        self._caller = ClientState()  # of the request that is parsed
        self._owe("head")
        if len(self.connections) > self.server_state.most_connections + SPARE_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller has gone."""
        super().connection_lost(exc)
        self._tell_running()

    def data_received(self, data: bytes) -> None:
        """Give the parser one header section, or one piece of content, at a time: each within bounds."""
        self._unset_keepalive_if_required()
        place = 0
        while place < len(data) and not (self._is_refused or self._is_last or self.transport.is_closing()):
            try:
                place = self._read_content(data, place) if self._has_content_to_come else self._read_head(data, place)
            except ServiceError as error:
                self._refuse(error)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._caller = self.scope["state"]["caller"] = ClientState()

    def on_headers_complete(self) -> None:
        """A request begins. Until its body has arrived, its answer does not close the connection."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise MalformedRequest("There are too many requests on the connection that wait for an answer.")
        self._check_fields()
        super().on_headers_complete()
        self.headers = []  # takes trailer fields, which must not become header fields (RFC 9110, 6.5.1)
        self._owe("body")
        self._keeps_alive, self.cycle.keep_alive = self.cycle.keep_alive, True
        self._is_asked_to_close = not self._keeps_alive
        self.cycle.transport = self._envelope

    def on_message_complete(self) -> None:
        """All of the request is here."""
        super().on_message_complete()
        self._caller.is_request_complete = True
        if isinstance(self._left, Chunks) and not self.parser.should_keep_alive():
            # The parser takes `Connection: close` from the trailer section, too, and reads nothing after it.
            self._keeps_alive, self._is_asked_to_close = False, True
        self._is_last = self._is_asked_to_close
        if self.cycle is self._running:
            self.flow.resume_reading()  # paused for a long body; a caller that leaves is only heard by who reads
        self._owe(None)
        self.cycle.keep_alive = self._keeps_alive and not self.server_state.service.is_draining
        if self.cycle.response_complete and not self.cycle.keep_alive:
            self.transport.close()

    def on_response_complete(self) -> None:
        """The answer has been written, perhaps before all of the request had come."""
        self._envelope.end()
        is_newest = self._running is self.cycle
        super().on_response_complete()
        if self._late is not None and not self._is_busy and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._send_refusal(self._late)
        elif self._owed == "body" and is_newest:
            self._owe("rest")

    def let_go(self) -> None:
        """Close after the answer to what has been asked."""
        self._keeps_alive = False
        if self.cycle is not None and self._owed is None:
            self.cycle.keep_alive = False

    def prolong(self, seconds: float, now: float) -> None:
        """Add time to what the client may take. `now` is the time to which `check` compares."""
        self._since = min(self._since + seconds, now)
        self._unsent_since = min(self._unsent_since + seconds, now)

    def check(self, now: float) -> None:
        """Close it if its caller has owed something for too long: a head, the rest of a refused body, or reading."""
        if self.transport.is_closing():
            pass
        elif self._owed == "head" and not self._is_busy and now - self._since > self._settings.header_timeout:
            if self._sections.held:
                self._refuse(RequestTimeout("The head of the request did not arrive in time."))
            else:  # The client has sent nothing, so close without a response.
                self.transport.close()
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
        return self._running is not None and not self._running.response_complete

    @property
    def _has_content_to_come(self) -> bool:
        return self._owed in {"body", "rest"}

    def _read_head(self, data: bytes, place: int) -> int:
        """Read up to the end of a header section. Returns where the rest of the data starts."""
        if self._owed is None:
            self._owe("head")
        section, place = self._sections.cut(data, place)
        if section is None:
            held = self._sections.held
            if len(held) > MAX_HEAD_BYTES:
                raise HeadersTooLarge
            if held:
                check_beginning(held)
            return place
        self._section = section
        if len(section) > MAX_HEAD_BYTES:
            raise HeadersTooLarge
        line = REQUEST_LINE.match(section)
        if line is None:
            raise wrong_line(section)
        if line[1] == b"CONNECT":  # the parser would give what follows to the protocol behind a proxy
            raise NotSupported("The method CONNECT is for proxies, and this is none.")
        if self.cycle is None and len(self.connections) > self.server_state.most_connections:
            raise TooManyConnections
        self._method, self._is_old = line[1], line[3] == b"0"
        return self._give(section, data, place)

    def _give(self, section: bytes, data: bytes, end: int) -> int:
        """Give the parser the section that ends at `end`, with its content if `data` is exactly this request."""
        lowered = section.lower()
        if b"\nupgrade:" in lowered:
            section = without_upgrade(section)
        elif len(section) == end < len(data) and b"\ncontent-length: %d\r\n" % (len(data) - end) in lowered:
            # Most requests with content arrive in one segment, which takes the parser half the time of two pieces.
            self._parse(data)
            if self._has_content_to_come:
                raise MalformedRequest(WRONG_END)
            return len(data)
        self._parse(section)
        return end

    def _check_fields(self) -> None:
        """Hold the request to what the parser does not ask of it, before the application has it."""
        headers = self.headers
        for _, value in headers:
            if value[-1:] <= b" ":  # or empty
                headers[:] = [(name, value.rstrip(b" \t")) for name, value in headers]
                break
        length = content_length(headers, is_old=self._is_old)
        self._left = Chunks() if length is None else length
        if not self.url.startswith(b"/"):
            self.url, authority = origin_form(self._method, self.url)
            if authority is not None:  # instead of Host (RFC 9112, 3.2.2)
                headers[:] = [(name, authority if name == b"host" else value) for name, value in headers]
        if self._is_old:
            self.expect_100_continue = False  # a client of HTTP/1.0 may not know what is sent then (RFC 9110, 10.1.1)

    def _read_content(self, data: bytes, place: int) -> int:
        """Read up to the end of the content, or of the data. Returns where the rest of the data starts."""
        if isinstance(self._left, Chunks):
            end = self._left.end(data, place)
            has_ended, end = end is not None, len(data) if end is None else end
        else:
            end = min(place + self._left, len(data))
            self._left -= end - place
            has_ended = not self._left
        self._parse(data if (place, end) == (0, len(data)) else memoryview(data)[place:end])
        if self._has_content_to_come == has_ended and not self._is_refused:
            raise MalformedRequest(WRONG_END)
        if not has_ended:
            self._count(end - place)
        return end

    def _parse(self, data: bytes | memoryview) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            if not isinstance(cause, ServiceError):
                log.exception("unexpected error", exc_info=cause or error)
                cause = InternalError()
            raise cause from None
        except httptools.HttpParserInvalidMethodError:
            raise NotSupported("The method of the request is not known.") from None
        except httptools.HttpParserError as error:
            raise MalformedRequest(f"The request cannot be read: {error}.") from None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _tell_running(self) -> None:
        """The request that is being answered, that nobody waits any more: uvicorn tells the one that came last."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
            self._running.scope["state"]["caller"].disconnect()

    def _owe(self, part: Literal["head", "body", "rest"] | None) -> None:
        self._owed, self._since, self._bytes = part, time.monotonic(), 0

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._owed == "body" and self._bytes > 2 * self._settings.max_body_mib * 2**20:
            raise ImageTooLarge("The body is too long as it was sent.")

    def _refuse(self, error: ServiceError) -> None:
        """Answer outside of the application, once earlier requests are answered. What else is sent is dropped."""
        self._is_refused = True
        if self._owed == "rest":
            return  # The request has its answer already. The connection is closed when the time for the rest is over.
        if self._owed == "body" and self._running is self.cycle:
            self._tell_running()  # whose answer would come after this one
            self._send_refusal(error)
        elif self._is_busy:
            if self._owed == "body":
                self.pipeline.popleft()  # the request that is refused
            self._late = error
            self._owe(None)
        else:
            self._send_refusal(error)

    def _send_refusal(self, error: ServiceError) -> None:
        section = self._sections.held or self._section
        fields = fields_of(section) if is_for_this_server(section) else []
        identity = request_id(fields)
        self.server_state.service.metrics.rejected.labels(error.code).inc()
        client = self.client and self.client[0]
        about = {"client": client, "status": error.status, "code": error.code, "request_id": identity}
        log.info("refused", extra=about)
        cors = cors_fields(self._settings.cors_origins, fields)
        default_fields = self.server_state.default_headers
        self._owe("rest")
        self.transport.write(
            response(error, identity, default_fields, cors, has_content=not section.startswith(b"HEAD "))
        )
        self.transport.write_eof()
