"""`app/server/protocol.py`: what a connection may take, over real sockets."""

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
    """A service with little patience: but so much that a client on a busy machine can send what it means to send."""
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
def test_who_is_too_slow_or_speaks_no_http_is_told(strict: Served, sent: bytes, status: int, code: str) -> None:
    """A request that does not come to its end in time, or is none, gets a problem document."""
    with strict.connect() as connection:
        connection.sendall(sent)
        answer, headers, problem = answer_of(connection)

    assert (status, code) == (answer, problem["code"])
    assert headers["content-type"] == "application/problem+json"


def test_who_says_nothing_is_let_go_without_a_word(strict: Served) -> None:
    """A connection on which nothing comes is closed: browsers open such in advance."""
    assert strict.say() == b""


def test_a_head_without_end_is_refused(narrow: Served) -> None:
    """Headers are bounded in bytes: nobody fills the memory with them."""
    with narrow.connect() as connection:
        connection.sendall(HEAD)
        for _ in range(100):
            connection.sendall(b"X-Filling: " + b"x" * 2**14 + b"\r\n")
        status, _, problem = answer_of(connection)

    assert (status, problem["code"]) == (431, "headers_too_large")


def test_a_body_longer_than_what_it_carries_is_refused(narrow: Served) -> None:
    """Chunks of one byte with long extensions are a small image and a large transfer."""
    chunk = b"1;" + b"x" * 4096 + b"\r\nx\r\n"
    with narrow.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        connection.sendall(chunk * (2**21 // 4096 + 200))
        status, _, problem = answer_of(connection)

    assert (status, problem["code"]) == (413, "image_too_large")


def test_a_refusal_reaches_who_is_still_sending(served: Served) -> None:
    """The rest of a body that was refused is read for a while: closing on it would lose the answer."""
    with served.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 40000000\r\nConnection: close\r\n\r\n")
        httpx.get(f"{served.url}/health/live")  # a later request was served: ours has been answered
        connection.sendall(b"x" * 10_000_000)  # would be reset, had the connection been closed
        status, _, problem = answer_of(connection)

    assert (status, problem["code"]) == (413, "image_too_large")


def test_the_rest_of_a_refused_body_is_not_read_for_ever(served: Served) -> None:
    """After a while the connection is closed on who goes on sending."""
    with served.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 40000000\r\n\r\n")
        answer_of(connection)
        closed = connection.recv(1)

    assert closed == b""


def test_one_connection_too_many_is_refused(narrow: Served) -> None:
    """It hears 503 and when to come back; those before it are served."""
    with ExitStack() as stack:
        first, *_ = [stack.enter_context(narrow.connect()) for _ in range(4)]
        first.sendall(LIVE)
        before, _, _ = answer_of(first)
        one_more = stack.enter_context(narrow.connect())  # not sooner: it would be one too many for the first as well
        one_more.sendall(LIVE)
        status, headers, problem = answer_of(one_more)
        first.sendall(LIVE)
        after, _, _ = answer_of(first)

    assert (status, problem["code"], headers["retry-after"]) == (503, "too_many_connections", "1")
    assert (before, after) == (200, 200)


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_who_offers_another_protocol_is_answered_in_this_one(served: Served, demo: Bundle, protocol: bytes) -> None:
    """Java's client asks for HTTP/2 with every request: that is ignored, and the body is still the image."""
    image = (demo.folder / "golden/seven.png").read_bytes()
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + protocol + b"\r\n"
    with served.connect() as connection:
        connection.sendall(HEAD + upgrade + f"Content-Length: {len(image)}\r\n\r\n".encode() + image)
        status, _, answer = answer_of(connection)

    assert (status, answer["predictions"][0]["label"]) == (200, "seven")


def test_pipelined_requests_are_answered_in_order_and_bounded(served: Served) -> None:
    """Sixteen requests sent at once are answered; hundreds are one request too many."""
    with served.connect() as connection:
        connection.sendall(LIVE * 15 + LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        few = everything(connection)
    many = served.say(LIVE * 500)

    assert few.count(b'{"status":"alive"}') == 16
    assert many.count(b"malformed_request") == 1


def test_garbage_behind_a_request_is_refused_after_its_answer(served: Served) -> None:
    """Each has an answer of its own, in order, without a trace in the log, and the service goes on."""
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


class Unread:
    """A transport that has so many bytes to send, each time it is looked at."""

    def __init__(self, *unsent: int) -> None:
        self._unsent = iter(unsent)
        self.aborted = False

    def is_closing(self) -> bool:
        """As long as it is not aborted, it is open."""
        return self.aborted

    def get_write_buffer_size(self) -> int:
        """What the other side has not read yet."""
        return next(self._unsent)

    def abort(self) -> None:
        """Close without sending the rest."""
        self.aborted = True


@pytest.mark.parametrize(
    ("unsent", "aborted"), [((9, 9, 9), True), ((9, 8, 7), False), ((0, 0, 9), False)], ids=["none", "some", "new"]
)
def test_who_does_not_read_is_let_go(unsent: tuple[int, ...], aborted: bool) -> None:  # noqa: FBT001 (pytest passes it by name)
    """An answer that makes no progress for `body_timeout` is given up; a slow reader is not."""
    connection: Any = object.__new__(Connection)  # without the server that it would need for a request
    connection.transport = Unread(*unsent)
    connection._settings = Settings(body_timeout=20)  # noqa: SLF001 (what connection_made would set)
    connection._owed, connection._unsent, connection._unsent_since = None, 0, 0.0  # noqa: SLF001 (likewise)
    for now in (100.0, 115.0, 130.0):
        connection.check(now)

    assert aborted == connection.transport.aborted


class Sent:
    """A transport that notes what leaves together."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        """One system call."""
        self.pieces.append(data)

    def writelines(self, data: Iterable[bytes]) -> None:
        """One as well."""
        self.pieces.append(b"".join(data))


def test_head_and_body_leave_together() -> None:
    """An answer is one piece on the wire, what is streamed after it goes as it comes; 100 Continue does not wait."""
    sent: Any = Sent()
    envelope = CoalescingTransport(sent)

    envelope.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    for body in (b"first", b"second"):
        for part in (b"HTTP/1.1 200 OK\r\n\r\n", body, b"more"):
            envelope.write(part)
        envelope.end()

    first, second = b"HTTP/1.1 200 OK\r\n\r\nfirst", b"HTTP/1.1 200 OK\r\n\r\nsecond"
    assert sent.pieces == [b"HTTP/1.1 100 Continue\r\n\r\n", first, b"more", second, b"more"]


def test_a_head_that_no_body_follows_is_sent(served: Served) -> None:
    """HEAD is answered before the next request on its connection is, not with it."""
    with served.connect() as connection:
        connection.sendall(b"HEAD /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        first = connection.recv(65536)
        connection.sendall(LIVE)
        second = connection.recv(65536)

    assert first.startswith(b"HTTP/1.1 200")
    assert first.endswith(b"\r\n\r\n")
    assert second.startswith(b"HTTP/1.1 200")
