"""uvicorn's connection with limits on the time and size of requests and on unread responses.

uvicorn itself limits neither the time nor the size of a header section. It reads a refused body
without end, and it keeps responses in memory that the client does not read.
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
    ChunkedBody,
    HeaderSectionBuffer,
    check_incomplete_section,
    content_length,
    fields_of,
    has_request_line,
    origin_form,
    request_line_error,
    without_upgrade,
)
from app.server.refusals import cors_fields, request_id, response
from app.server.transport import CoalescingTransport
from app.settings import Settings
from app.system.open_files import SPARE_CONNECTIONS

log = logging.getLogger("swin.server")

# Limit of requests that wait for their responses on one connection.
MAX_PIPELINED = 16

# Seconds for which the rest of a refused body is read and dropped. Closing a socket with unread
# bytes resets the connection, and the client can lose the response.
LINGER_SECONDS = 5

WRONG_LENGTH = "The content has another length than its header section or its chunk sizes announce."


class State(ServerState):
    """Settings and service that all connections share, beside uvicorn's own state."""

    def __init__(self, settings: Settings, service: Service) -> None:
        super().__init__()
        self.settings, self.service = settings, service


class Connection(HttpToolsProtocol):
    """One HTTP/1.1 connection with limits.

    The connection records which part of a request it awaits from the client, and since when:
    `head` (a header section), `body`, `rest` (of a refused body) or None. The server calls
    `check_timeouts` once a second, so that no request needs a timer of its own.
    """

    server_state: State
    _awaited_since: float  # seconds of `time.monotonic`

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # (as in uvicorn)
        super().connection_made(transport)
        self._settings = self.server_state.settings
        self._keeps_alive = True
        self._sections = HeaderSectionBuffer()
        self._section = self._method = b""  # the last header section, and its method
        self._is_http_1_0 = self._is_asked_to_close = self._is_last_request = False
        self._content_left: int | ChunkedBody = 0  # the part of the content that has not arrived
        self._late_refusal: ServiceError | None = None  # is sent after the responses to earlier requests
        self._response_transport = CoalescingTransport(transport)
        self._unsent, self._unsent_since = 0, 0.0
        self._is_refused = False
        self._running: RequestResponseCycle | None = None  # the request that the application processes
        self._client_state = ClientState()  # belongs to the request that is parsed
        self._await("head")
        if len(self.connections) > self._settings.max_connections + SPARE_CONNECTIONS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._disconnect_running()

    def data_received(self, data: bytes) -> None:
        """Check the limits, and pass one header section or one piece of content at a time to the parser."""
        self._unset_keepalive_if_required()
        place = 0
        while place < len(data) and not (self._is_refused or self._is_last_request or self.transport.is_closing()):
            try:
                place = self._read_content(data, place) if self._has_content_to_come else self._read_head(data, place)
            except ServiceError as error:
                self._refuse(error)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._client_state = self.scope["state"]["client_state"] = ClientState()

    def on_headers_complete(self) -> None:
        """Check the header fields and start the request.

        A response that ends before the body has arrived does not close the connection.
        """
        if len(self.pipeline) >= MAX_PIPELINED:
            raise MalformedRequest(
                f"More than {MAX_PIPELINED} requests wait for their responses on this connection. Send the next "
                "request after a response."
            )
        self._check_fields()
        super().on_headers_complete()
        self.headers = []  # for trailer fields, which must not become header fields (RFC 9110, section 6.5.1)
        self._await("body")
        self._keeps_alive, self.cycle.keep_alive = self.cycle.keep_alive, True
        self._is_asked_to_close = not self._keeps_alive
        self.cycle.transport = self._response_transport

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._client_state.is_request_complete = True
        if isinstance(self._content_left, ChunkedBody) and not self.parser.should_keep_alive():
            # The parser also obeys `Connection: close` in a trailer section, and reads nothing after it.
            self._keeps_alive, self._is_asked_to_close = False, True
        self._is_last_request = self._is_asked_to_close
        if self.cycle is self._running:
            # uvicorn pauses reading during a long body. A disconnect is noticed only while reading.
            self.flow.resume_reading()
        self._await(None)
        self.cycle.keep_alive = self._keeps_alive and not self.server_state.service.is_draining
        if self.cycle.response_complete and not self.cycle.keep_alive:
            self.transport.close()

    def on_response_complete(self) -> None:
        """End the response. The body of its request may still be arriving."""
        self._response_transport.end()
        is_newest = self._running is self.cycle
        super().on_response_complete()
        if self._late_refusal is not None and not self._is_responding and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._send_refusal(self._late_refusal)
        elif self._awaited == "body" and is_newest:
            self._await("rest")

    def close_after_response(self) -> None:
        """Close the connection after the responses to the requests that have arrived."""
        self._keeps_alive = False
        if self.cycle is not None and self._awaited is None:
            self.cycle.keep_alive = False

    def extend_timeouts(self, seconds: float, now: float) -> None:
        """Give the client more time. `now` is the time of the next `check_timeouts`."""
        self._awaited_since = min(self._awaited_since + seconds, now)
        self._unsent_since = min(self._unsent_since + seconds, now)

    def check_timeouts(self, now: float) -> None:
        """Close the connection if the client has exceeded a time limit.

        The limits are `header_timeout` for a header section, `LINGER_SECONDS` for the rest of a
        refused body, and `body_timeout` for reading the next part of a response.
        """
        if self.transport.is_closing():
            pass
        elif self._is_header_section_late(now):
            if self._sections.held:
                self._refuse(
                    RequestTimeout(f"The header section did not arrive in {self._settings.header_timeout:g} s.")
                )
            else:  # The client has sent nothing, so close without a response.
                self.transport.close()
        elif self._awaited == "rest" and now - self._awaited_since > LINGER_SECONDS:
            self.transport.close()
        unsent = self.transport.get_write_buffer_size()
        if not self._unsent or unsent < self._unsent:
            self._unsent_since = now
        elif now - self._unsent_since > self._settings.body_timeout:
            self.transport.abort()
        self._unsent = unsent

    def _is_header_section_late(self, now: float) -> bool:
        # While an earlier request is processed, uvicorn may have paused reading.
        is_awaited = self._awaited == "head" and not self._is_responding
        return is_awaited and now - self._awaited_since > self._settings.header_timeout

    @property
    def _is_responding(self) -> bool:
        """Return whether the application has not completed the response to an earlier request."""
        return self._running is not None and not self._running.response_complete

    @property
    def _has_content_to_come(self) -> bool:
        return self._awaited in {"body", "rest"}

    def _read_head(self, data: bytes, place: int) -> int:
        """Read up to the end of a header section. Return the index of the first byte after it."""
        if self._awaited is None:
            self._await("head")
        section, place = self._sections.cut(data, place)
        if section is None:
            held = self._sections.held
            if len(held) > MAX_HEAD_BYTES:
                raise HeadersTooLarge
            if held:
                check_incomplete_section(held)
            return place
        self._section = section
        if len(section) > MAX_HEAD_BYTES:
            raise HeadersTooLarge
        line = REQUEST_LINE.match(section)
        if line is None:
            raise request_line_error(section)
        if line[1] == b"CONNECT":  # the parser would take the following bytes for those of a tunnel
            raise NotSupported("The method CONNECT is for proxies, and swin-serve is not a proxy.")
        if self.cycle is None and len(self.connections) > self._settings.max_connections:
            raise TooManyConnections
        self._method, self._is_http_1_0 = line[1], line[3] == b"0"
        return self._parse_section(section, data, place)

    def _parse_section(self, section: bytes, data: bytes, end: int) -> int:
        """Parse the section that ends at `end`, with its content if `data` is exactly one request."""
        lowered = section.lower()
        if b"\nupgrade:" in lowered:
            section = without_upgrade(section)
        elif len(section) == end < len(data) and b"\ncontent-length: %d\r\n" % (len(data) - end) in lowered:
            # Most requests with content arrive in one segment. Parsing them in one call takes half the time.
            self._parse(data)
            if self._has_content_to_come:
                raise MalformedRequest(WRONG_LENGTH)
            return len(data)
        self._parse(section)
        return end

    def _check_fields(self) -> None:
        """Check and complete the header fields where the parser is too lenient."""
        headers = self.headers
        for _, value in headers:
            if value[-1:] <= b" ":  # true for an empty value, too
                headers[:] = [(name, value.rstrip(b" \t")) for name, value in headers]
                break
        length = content_length(headers, is_http_1_0=self._is_http_1_0)
        self._content_left = ChunkedBody() if length is None else length
        if not self.url.startswith(b"/"):
            self.url, authority = origin_form(self._method, self.url)
            if authority is not None:  # it replaces Host (RFC 9112, section 3.2.2)
                headers[:] = [(name, authority if name == b"host" else value) for name, value in headers]
        if self._is_http_1_0:
            self.expect_100_continue = False  # HTTP/1.0 has no interim responses (RFC 9110, section 10.1.1)

    def _read_content(self, data: bytes, place: int) -> int:
        """Read up to the end of the content, or of the data. Return the index of the first byte after it."""
        if isinstance(self._content_left, ChunkedBody):
            end = self._content_left.find_end(data, place)
            has_ended, end = end is not None, len(data) if end is None else end
        else:
            end = min(place + self._content_left, len(data))
            self._content_left -= end - place
            has_ended = not self._content_left
        self._parse(data if (place, end) == (0, len(data)) else memoryview(data)[place:end])
        if self._has_content_to_come == has_ended and not self._is_refused:
            raise MalformedRequest(WRONG_LENGTH)
        if not has_ended:
            self._count_content(end - place)
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
            raise NotSupported("The request method is unknown. Send images with POST.") from None
        except httptools.HttpParserError as error:
            raise MalformedRequest(f"The request is not valid HTTP: {error}.") from None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _disconnect_running(self) -> None:
        """Mark the running request as disconnected. uvicorn marks only the newest of pipelined requests."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
            self._running.scope["state"]["client_state"].disconnect()

    def _await(self, part: Literal["head", "body", "rest"] | None) -> None:
        self._awaited, self._awaited_since, self._content_bytes = part, time.monotonic(), 0

    def _count_content(self, size: int) -> None:
        self._content_bytes += size
        limit_mib = 2 * self._settings.max_body_mib
        if self._awaited == "body" and self._content_bytes > limit_mib * 2**20:
            raise ImageTooLarge(f"The body and its chunk sizes are longer than {limit_mib} MiB. Send larger chunks.")

    def _refuse(self, error: ServiceError) -> None:
        """Send a problem document after the responses to earlier requests. Drop all later bytes."""
        self._is_refused = True
        if self._awaited == "rest":
            return  # The response is complete already. `check_timeouts` closes the connection.
        if self._awaited == "body" and self._running is self.cycle:
            self._disconnect_running()  # the application must not write a second response
            self._send_refusal(error)
        elif self._is_responding:
            if self._awaited == "body":
                self.pipeline.popleft()  # the refused request
            self._late_refusal = error
            self._await(None)
        else:
            self._send_refusal(error)

    def _send_refusal(self, error: ServiceError) -> None:
        section = self._sections.held or self._section
        fields = fields_of(section) if has_request_line(section) else []
        identity = request_id(fields)
        self.server_state.service.metrics.rejected.labels(error.code).inc()
        client = self.client and self.client[0]
        about = {"client": client, "status": error.status, "code": error.code, "request_id": identity}
        log.info("refused", extra=about)
        cors = cors_fields(self._settings.cors_origins, fields)
        default_fields = self.server_state.default_headers
        self._await("rest")
        self.transport.write(
            response(error, identity, default_fields, cors, has_content=not section.startswith(b"HEAD "))
        )
        self.transport.write_eof()
