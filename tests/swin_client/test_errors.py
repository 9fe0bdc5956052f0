"""`swin_client/errors.py`: the tree of the service, read from its answers."""

import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import swin_client
from starlette.responses import JSONResponse
from swin_client import BadRequest, Overloaded, RetryableError, ServerError, ServiceError, SwinError
from swin_client.errors import error_of

from app import errors as service_errors
from app.http.problems import problem_response


def leaves(kind: type[service_errors.ServiceError]) -> Iterator[type[service_errors.ServiceError]]:
    for each in kind.__subclasses__():
        if "code" in vars(each):
            yield each
        yield from leaves(each)


LEAVES = list(leaves(service_errors.ServiceError))


def instance_of(kind: type[service_errors.ServiceError]) -> service_errors.ServiceError:
    """Return an error of the service, whatever its class takes."""
    error = kind.__new__(kind)
    service_errors.ServiceError.__init__(error, "the cause")
    if kind is service_errors.UnsupportedEncoding:
        error.accepted = "identity"  # type: ignore[attr-defined]
    return error


def answered(response: JSONResponse) -> ServiceError:
    """Return the client's exception for a response of the service."""
    headers = {name.decode(): value.decode() for name, value in response.raw_headers}
    return error_of(response.status_code, headers, bytes(response.body))


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_each_error_of_the_service_has_a_class_of_its_name(kind: type[service_errors.ServiceError]) -> None:
    """Name, status, code, title and the classes above it are equal."""
    mine = getattr(swin_client, kind.__name__)

    assert issubclass(mine, ServiceError)
    assert (mine.status, mine.code, mine.title) == (kind.status, kind.code, kind.title)
    above = [each.__name__ for each in kind.__mro__ if issubclass(each, service_errors.ServiceError)]
    assert [each.__name__ for each in mine.__mro__ if issubclass(each, ServiceError)] == above


def test_the_client_has_no_other_error_of_the_service() -> None:
    """An error that the service has lost is lost here, too."""
    mine = {name for name in swin_client.__all__ if getattr(getattr(swin_client, name), "code", "")}

    assert mine == {kind.__name__ for kind in LEAVES}


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_the_answer_of_an_error_is_read(kind: type[service_errors.ServiceError]) -> None:
    """The problem document that the service sends becomes the class, with its detail and its Retry-After."""
    error = answered(problem_response(instance_of(kind)))

    assert type(error).__name__ == kind.__name__
    assert (error.status, error.code, error.title, error.detail) == (kind.status, kind.code, kind.title, "the cause")
    assert str(error) == "the cause"
    assert error.retry_after == (1 if issubclass(kind, service_errors.RetryableError) else None)


@pytest.mark.parametrize(
    ("status", "kind"), [(418, BadRequest), (429, RetryableError), (507, ServerError), (503, RetryableError)]
)
def test_an_unknown_code_is_a_class_of_its_status(status: int, kind: type[ServiceError]) -> None:
    """A newer service can have codes that this version does not know."""
    error = error_of(status, {"x-request-id": "1"}, b'{"code": "new_code", "detail": "something new", "title": "New"}')

    assert type(error) is kind
    assert (error.status, error.code, error.title, error.detail) == (status, "new_code", "New", "something new")
    assert error.request_id == "1"


@pytest.mark.parametrize("content", [b"", b"<html>", b"[1]", b'{"code": 1, "detail": null}', b"\xff"])
def test_an_answer_that_is_no_problem_document_has_its_status(content: bytes) -> None:
    """Proxies send pages of their own."""
    error = error_of(502, {}, content)

    assert type(error) is RetryableError
    assert (error.status, error.code, str(error)) == (502, "bad_gateway", "the answer is 502 Bad Gateway")


def test_a_status_without_a_name_is_accepted() -> None:
    """Some proxies invent statuses."""
    assert str(error_of(599, {}, b"")) == "the answer is 599 Unknown Status"


def test_retry_after_can_be_a_date() -> None:
    """The seconds count from the date of the answer, so that the clock of the client does not matter."""
    now = datetime(2001, 1, 1, tzinfo=UTC)
    headers = {"date": format_datetime(now, usegmt=True)}
    later = format_datetime(now + timedelta(seconds=90), usegmt=True)

    assert error_of(503, headers | {"retry-after": later}, b"").retry_after == 90
    assert error_of(503, {"retry-after": later}, b"").retry_after is None


@pytest.mark.parametrize("value", ["", "-1", "soon", "1.5", "²"])
def test_a_retry_after_that_is_not_valid_is_ignored(value: str) -> None:
    """Only a number of seconds and a date are valid."""
    assert error_of(503, {"retry-after": value}, b"").retry_after is None


def test_errors_can_be_pickled() -> None:
    """Programs with several processes send exceptions from one to another."""
    error = error_of(429, {"retry-after": "7", "x-request-id": "1"}, b'{"code": "overloaded", "detail": "full"}')
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (made here)

    assert type(copy) is Overloaded
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("name", ["ConnectionFailed", "InvalidAnswer", "UnusableImage", "DownloadFailed"])
def test_all_errors_have_one_base(name: str) -> None:
    """`except SwinError` catches each error of a call."""
    assert issubclass(getattr(swin_client, name), SwinError)
    assert not issubclass(getattr(swin_client, name), ServiceError)
