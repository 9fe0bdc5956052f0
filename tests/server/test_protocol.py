"""Tests of `app/server/protocol.py` and `transport.py`: the limits of a connection, over real sockets."""

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from app.bundle.load import Bundle
from app.server.protocol import Connection
from app.server.transport import CoalescingTransport
from app.settings import Settings
from tests.support.served import Served, answer_of, everything

HEAD = b"POST /classify HTTP/1.1\r\nHost: x\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def strict() -> Iterator[Served]:
    """A service with short timeouts, which are still long enough for a client on a busy machine."""
    served = Served("--header-timeout", "1.5", "--body-timeout", "1.5")
    try:
        yield served
    finally:
        served.stop()


@pytest.fixture(scope="module")
def narrow() -> Iterator[Served]:
    """A service for few connections and small bodies."""
    served = Served("--max-connections", "4", "--max-body-mib", "1")
    try:
        yield served
    finally:
        served.stop()


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (HEAD, 408, "request_timeout"),
        (HEAD + b"Content-Length: 100\r\nConnection: close\r\n\r\nhalf", 408, "request_timeout"),
        (HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\nhalf\r\n", 408, "request_timeout"),
        (b"hello\r\n\r\n", 400, "malformed_request"),
        (b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "malformed_request"),
    ],
    ids=["head", "body", "chunked body", "no HTTP", "forged length"],
)
def test_late_and_invalid_requests_get_a_problem_document(strict: Served, sent: bytes, status: int, code: str) -> None:
    """A request that is incomplete after its timeout, or is not HTTP, gets a problem document."""
    with strict.connect() as connection:
        connection.sendall(sent)
        answer, headers, problem = answer_of(connection)

    assert (status, code) == (answer, problem["code"])
    assert headers["content-type"] == "application/problem+json"


def test_a_silent_connection_is_closed_without_a_response(strict: Served) -> None:
    """A connection without a byte of a request is closed silently, because browsers open some in advance."""
    assert strict.say() == b""


def test_a_head_without_end_is_refused(narrow: Served) -> None:
    """The header section is limited in bytes, so that it does not fill the memory."""
    with narrow.connect() as connection:
        connection.sendall(HEAD)
        for _ in range(100):
            connection.sendall(b"X-Filling: " + b"x" * 2**14 + b"\r\n")
        status, _, problem = answer_of(connection)

    assert (status, problem["code"]) == (431, "headers_too_large")


def test_a_body_with_too_much_chunk_framing_is_refused(narrow: Served) -> None:
    """Chunks of one byte with long extensions count by their bytes on the wire."""
    chunk = b"1;" + b"x" * 4096 + b"\r\nx\r\n"
    with narrow.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        connection.sendall(chunk * (2**21 // 4096 + 200))
        status, _, problem = answer_of(connection)

    assert (status, problem["code"]) == (413, "image_too_large")


def test_a_refusal_reaches_a_client_that_is_still_sending(served: Served) -> None:
    """The rest of a refused body is read for a while, because closing earlier would lose the response."""
    with served.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 40000000\r\nConnection: close\r\n\r\n")
        httpx.get(f"{served.url}/health/live")  # this later request succeeded, so the first one has its response
        connection.sendall(b"x" * 10_000_000)  # a closed connection would be reset here
        status, _, problem = answer_of(connection)

    assert (status, problem["code"]) == (413, "image_too_large")


def test_the_rest_of_a_refused_body_is_not_read_for_ever(served: Served) -> None:
    """The connection is closed after a while, even if the client goes on sending."""
    with served.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 40000000\r\n\r\n")
        answer_of(connection)
        closed = connection.recv(1)

    assert closed == b""


def test_one_connection_too_many_is_refused(narrow: Served) -> None:
    """A connection above the limit gets 503 with Retry-After, and earlier connections are served."""
    with ExitStack() as stack:
        first, *_ = [stack.enter_context(narrow.connect()) for _ in range(4)]
        first.sendall(LIVE)
        before, _, _ = answer_of(first)
        one_more = stack.enter_context(narrow.connect())  # not earlier, or the first connection would be refused, too
        one_more.sendall(LIVE)
        status, headers, problem = answer_of(one_more)
        first.sendall(LIVE)
        after, _, _ = answer_of(first)

    assert (status, problem["code"], headers["retry-after"]) == (503, "too_many_connections", "1")
    assert (before, after) == (200, 200)


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_a_request_that_offers_another_protocol_gets_a_response(served: Served, demo: Bundle, protocol: bytes) -> None:
    """An offer of HTTP/2, such as Java's client sends, is ignored, and the body is classified."""
    image = (demo.folder / "golden/seven.png").read_bytes()
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\n"
    with served.connect() as connection:
        connection.sendall(HEAD + upgrade + f"Content-Length: {len(image)}\r\n\r\n".encode() + image)
        status, _, answer = answer_of(connection)

    assert (status, answer["predictions"][0]["label"]) == (200, "seven")


def test_pipelined_requests_are_limited(served: Served) -> None:
    """Sixteen pipelined requests get responses; of hundreds, one is refused."""
    with served.connect() as connection:
        connection.sendall(LIVE * 15 + LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        few = everything(connection)
    many = served.say(LIVE * 500)

    assert few.count(b'{"status":"alive"}') == 16
    assert many.count(b"malformed_request") == 1


def test_garbage_behind_a_request_is_refused_after_its_answer(served: Served) -> None:
    """The request and the garbage get one response each, the log shows no warning, and the service goes on."""
    with served.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 10\r\n\r\n" + b"0123456789" + b"garbage\r\n\r\n")
        answer = everything(connection)
    with served.connect() as connection:
        connection.sendall(LIVE)
        status, _, _ = answer_of(connection)
    served.process.terminate()
    served.process.wait()
    served.stop()
    levels = {served.log.get()["level"] for _ in range(served.log.qsize())}

    codes = re.findall(rb'"code":"(\w+)"', answer)
    assert (codes, answer.count(b"HTTP/1.1 4"), status) == ([b"unsupported_image", b"malformed_request"], 2, 200)
    assert levels == {"info"}


class SlowTransport:
    """A transport with the given numbers of unsent bytes, one for each check."""

    def __init__(self, *unsent: int) -> None:
        self._unsent = iter(unsent)
        self.aborted = False

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        return next(self._unsent)

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(
    ("unsent", "aborted"), [((9, 9, 9), True), ((9, 8, 7), False), ((0, 0, 9), False)], ids=["none", "some", "new"]
)
def test_a_client_that_does_not_read_is_disconnected(unsent: tuple[int, ...], aborted: bool) -> None:  # noqa: FBT001 (pytest passes it by name)
    """A response without progress for `body_timeout` is aborted; a slowly read one is not."""
    connection: Any = object.__new__(Connection)  # without the server that a request needs
    connection.transport = SlowTransport(*unsent)
    connection._settings = Settings(body_timeout=20)  # noqa: SLF001 (as connection_made does)
    connection._awaited, connection._unsent, connection._unsent_since = None, 0, 0.0  # noqa: SLF001 (likewise)
    for now in (100.0, 115.0, 130.0):
        connection.check_timeouts(now)

    assert aborted == connection.transport.aborted


class RecordingTransport:
    """A transport that records the bytes of each system call."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def writelines(self, data: Iterable[bytes]) -> None:
        self.pieces.append(b"".join(data))


def test_head_and_body_leave_together() -> None:
    """Header section and first content leave together; 100 Continue and later content leave at once."""
    sent: Any = RecordingTransport()
    transport = CoalescingTransport(sent)

    transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    for body in (b"first", b"second"):
        for part in (b"HTTP/1.1 200 OK\r\n\r\n", body, b"more"):
            transport.write(part)
        transport.end()

    first, second = b"HTTP/1.1 200 OK\r\n\r\nfirst", b"HTTP/1.1 200 OK\r\n\r\nsecond"
    assert sent.pieces == [b"HTTP/1.1 100 Continue\r\n\r\n", first, b"more", second, b"more"]


def test_a_header_section_without_content_is_sent(served: Served) -> None:
    """The response to HEAD leaves at once, not together with the next response."""
    with served.connect() as connection:
        connection.sendall(b"HEAD /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        first = connection.recv(65536)
        connection.sendall(LIVE)
        second = connection.recv(65536)

    assert first.startswith(b"HTTP/1.1 200")
    assert first.endswith(b"\r\n\r\n")
    assert second.startswith(b"HTTP/1.1 200")
