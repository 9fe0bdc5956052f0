"""`swin_client/calls.py`: tries, pauses and deadlines, with a clock of their own."""

import ssl

import httpx
import pytest
from swin_client import (
    Classification,
    ConnectionFailed,
    DeadlineExceeded,
    Draining,
    InvalidAnswer,
    Overloaded,
    RetryableError,
    ServiceError,
)
from swin_client.calls import FIRST_PAUSE, JITTER, MAX_PAUSE, Caller
from swin_client.exchange import Answer, run_without_suspending
from swin_client.options import Service

from tests.support.fake_io import FakeIO, answer

GOOD = answer(200, b'{"predictions": [{"index": 7, "label": "seven", "score": 0.5}]}')
REFUSED = httpx.ConnectError("[Errno 111] Connection refused")


def problem(status: int, code: str, **headers: str) -> Answer:
    return answer(status, f'{{"code": "{code}", "detail": "the cause"}}'.encode(), **headers)


def call(io: FakeIO, *, timeout: float | None = None, max_retries: int | None = None) -> Classification:
    """Classify with a timeout of 30 s, if none is given."""
    service = Service("http://swin:8000/prefix/", "a-key", 30, max_retries, 1000)
    return run_without_suspending(Caller(service, io).classify(b"image", {"top_k": "1"}, timeout))


def test_the_request_is_what_the_service_documents() -> None:
    """The image is the body, the options are the query, and the key and the timeout are header fields."""
    io = FakeIO(GOOD)

    assert call(io).best.label == "seven"
    (request,) = io.requests
    assert (request.method, str(request.url)) == ("POST", "http://swin:8000/prefix/classify?top_k=1")
    assert request.content == b"image"
    assert request.headers["authorization"] == "Bearer a-key"
    assert request.headers["x-request-timeout"] == "30.000"
    assert request.headers["content-length"] == "5"


@pytest.mark.parametrize("status", [429, 503, 504])
@pytest.mark.parametrize("seconds", [1, 7])
def test_retry_after_is_honored(status: int, seconds: int) -> None:
    """The next try is not before the time that the service says, and not long after."""
    io = FakeIO(problem(status, "", retry_after=str(seconds)), GOOD)

    call(io)
    (pause,) = io.pauses
    assert seconds <= pause <= seconds * (1 + JITTER)


@pytest.mark.parametrize("lost", [REFUSED, httpx.ReadError("reset"), httpx.RemoteProtocolError("disconnected")])
def test_a_lost_connection_is_repeated(lost: httpx.TransportError) -> None:
    """A classification changes nothing, so it may run twice."""
    io = FakeIO(lost, lost, GOOD)

    assert call(io).best.index == 7
    assert [request.content for request in io.requests] == [b"image"] * 3


def test_pauses_double_up_to_a_limit_and_differ() -> None:
    """Without Retry-After, each pause is twice the last one, less a random part."""
    io = FakeIO(*[REFUSED] * 8, GOOD)

    call(io)
    for tries, pause in enumerate(io.pauses):
        longest = min(FIRST_PAUSE * 2**tries, MAX_PAUSE)
        assert longest * (1 - JITTER) <= pause <= longest
    assert len({pause / min(FIRST_PAUSE * 2**tries, MAX_PAUSE) for tries, pause in enumerate(io.pauses)}) > 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 415, 422, 431, 500, 501, 505])
def test_other_errors_are_not_repeated(status: int) -> None:
    """The same request would fail again, even if the answer has a Retry-After."""
    io = FakeIO(problem(status, "", retry_after="1"))

    with pytest.raises(ServiceError, match="the cause"):
        call(io)
    assert len(io.requests) == 1


def test_a_429_that_more_waiting_does_not_help_is_not_repeated() -> None:
    """`too_many_streams` is an error of the client."""
    io = FakeIO(problem(429, "too_many_streams"))

    with pytest.raises(ServiceError):
        call(io)
    assert len(io.requests) == 1


def test_the_service_gets_the_time_that_is_left() -> None:
    """Each try says how long the client still waits, and all tries share one timeout."""
    io = FakeIO(problem(503, "not_ready", retry_after="2"), GOOD, seconds=1)

    call(io, timeout=10)
    first, second = (float(request.headers["x-request-timeout"]) for request in io.requests)
    assert first == 10
    assert second == pytest.approx(10 - 1 - io.pauses[0], abs=0.001)
    assert io.requests[1].extensions["timeout"]["read"] == pytest.approx(second, abs=0.001)


def test_a_pause_that_outlasts_the_timeout_is_not_begun() -> None:
    """The error of the service is raised at once, with the number of tries."""
    io = FakeIO(problem(429, "overloaded", retry_after="1"), problem(429, "overloaded", retry_after="60"))

    with pytest.raises(Overloaded) as raised:
        call(io)
    assert raised.value.retry_after == 60
    assert raised.value.__notes__ == ["after 2 tries"]
    assert len(io.pauses) == 1


def test_a_service_that_is_never_there_ends_the_call_within_its_timeout() -> None:
    """The last failure is raised."""
    io = FakeIO(REFUSED)

    with pytest.raises(ConnectionFailed, match=r"cannot connect to http://swin:8000: .* refused"):
        call(io)
    assert 30 - MAX_PAUSE < io.now() <= 30


@pytest.mark.parametrize("kind", [httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout])
def test_no_answer_in_time_is_a_deadline_exceeded(kind: type[httpx.TimeoutException]) -> None:
    """The class is that of the service's own timeout. There is no time for another try."""
    io = FakeIO(kind(""), seconds=30)

    with pytest.raises(DeadlineExceeded, match="no answer arrived within 30 s"):
        call(io)
    assert len(io.requests) == 1


def test_a_connection_that_does_not_open_is_tried_again() -> None:
    """The timeout of connecting is shorter than that of the call: the next try can reach another instance."""
    io = FakeIO(httpx.ConnectTimeout("timed out"), GOOD, seconds=5)

    call(io)
    assert io.requests[0].extensions["timeout"]["connect"] == 5


def test_the_number_of_retries_can_be_limited() -> None:
    """`max_retries` is the number of tries after the first; 0 turns them off."""
    for retries in (0, 2):
        io = FakeIO(problem(503, "draining", retry_after="1"))
        with pytest.raises(Draining):
            call(io, max_retries=retries)
        assert len(io.requests) == 1 + retries


def test_a_certificate_that_is_not_trusted_is_not_tried_again() -> None:
    """More tries would not change it."""
    error = httpx.ConnectError("certificate verify failed")
    error.__cause__ = ssl.SSLCertVerificationError()
    io = FakeIO(error)

    with pytest.raises(ConnectionFailed, match=r"cannot trust http://swin:8000.*ssl_context") as raised:
        call(io)
    assert len(io.requests) == 1
    assert not raised.value.is_temporary


def test_a_request_that_cannot_be_sent_is_not_tried_again() -> None:
    """HTTP does not allow it, however often it is tried."""
    io = FakeIO(httpx.LocalProtocolError("Illegal header value"))

    with pytest.raises(ConnectionFailed, match="cannot send the request to http://swin:8000"):
        call(io)
    assert len(io.requests) == 1


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"{}", b'{"predictions": [1]}', b'{"predictions": [{}]}'])
def test_an_answer_of_another_server_is_an_error(content: bytes) -> None:
    """The error shows its beginning."""
    with pytest.raises(InvalidAnswer, match="not a classification of swin-serve"):
        call(FakeIO(answer(200, content)))


def test_a_redirect_is_not_followed() -> None:
    """The API key belongs to the address that was given. The error names the other one."""
    there = httpx.Request("GET", "https://swin/classify")
    io = FakeIO(Answer(301, httpx.Headers(), b"", there))

    with pytest.raises(InvalidAnswer, match="answers 301 to https://swin/classify"):
        call(io)


def test_an_unknown_temporary_error_is_repeated() -> None:
    """A proxy answers 502 with a page of its own while its service restarts."""
    io = FakeIO(answer(502, b"<html>"), GOOD)

    call(io)
    assert len(io.requests) == 2
    with pytest.raises(RetryableError):
        call(FakeIO(answer(502, b"<html>")), max_retries=0)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_timeout_that_is_not_a_positive_number_is_refused(timeout: float) -> None:
    """The program has to change it, so no request is sent."""
    io = FakeIO(GOOD)

    with pytest.raises(ValueError, match="timeout is"):
        call(io, timeout=timeout)
    assert not io.requests


@pytest.mark.parametrize(
    ("url", "key"),
    [
        *(
            (url, None)
            for url in ("localhost:8000", "ftp://swin", "http://", "http://swin?a=1", "http://u:p@swin", "h\n")
        ),
        *(("http://swin", key) for key in ("", "key\n", "schlüssel")),
    ],
)
def test_an_address_or_a_key_that_cannot_be_sent_is_refused(url: str, key: str | None) -> None:
    """The error does not show the key or a password."""
    with pytest.raises(ValueError, match=r"url is|api_key is") as raised:
        Service(url, key, 1, None, 1)
    assert "key\n" not in str(raised.value)
    assert "u:p" not in str(raised.value)
