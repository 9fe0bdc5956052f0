"""The exceptions: those of the service by its names, and those of this program. Knows no connection.

SwinError                        one call gave no result
├── ServiceError                 the service answered with a problem document
│   ├── BadRequest               change the request; it is not repeated
│   │   ├── MalformedRequest     400
│   │   ├── InvalidBody          400
│   │   ├── Unauthorized         401
│   │   ├── UnknownModel         404
│   │   ├── RequestTimeout       408
│   │   ├── ImageTooLarge        413
│   │   ├── UnsupportedImage     415
│   │   ├── UnsupportedEncoding  415
│   │   ├── UnreadableImage      422
│   │   ├── InvalidParameter     422
│   │   ├── TooManyStreams       429
│   │   ├── HeadersTooLarge      431
│   │   ├── NotSupported         501
│   │   └── WrongVersion         505
│   ├── RetryableError           the request was repeated until its time was over
│   │   ├── Overloaded           429
│   │   ├── NotReady             503
│   │   ├── Draining             503
│   │   ├── TooManyConnections   503
│   │   ├── TooManyCalls         503
│   │   └── DeadlineExceeded     504; also raised by this client when the timeout of a call has passed
│   └── ServerError              the service failed; it is not repeated
│       ├── EngineFailed         500
│       └── InternalError        500
├── ConnectionFailed             the service cannot be reached, or closes connections without an answer
├── InvalidAnswer                the answer is not one of swin-serve
└── UnusableImage                this program cannot read the image
    └── DownloadFailed           the URL of the image cannot be downloaded
"""

import json
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus


class SwinError(Exception):
    """One call gave no result. Every error of a call is one.

    Attributes:
        is_temporary: whether the same call can succeed later.
        retry_after: seconds until it makes sense, if the other side said so.
    """

    is_temporary = False
    retry_after: float | None = None


class ServiceError(SwinError):
    """The service answered with an error. An error of unknown code is one of the classes of its status.

    Attributes:
        status: the HTTP status.
        code: the stable name of the error.
        title: the kind of error, in words.
        detail: the cause in this request.
        request_id: the id of the request in the log of the service. None if there was no answer.
    """

    status = 0
    code = ""
    title = ""
    request_id: str | None = None

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BadRequest(ServiceError):
    """The request has to be changed."""


class MalformedRequest(BadRequest):
    """The request is not valid HTTP."""

    status, code, title = 400, "malformed_request", "The request is not valid HTTP"


class InvalidBody(BadRequest):
    """The body is not what the protocol of the route defines."""

    status, code, title = 400, "invalid_body", "The body of the request is not valid"


class Unauthorized(BadRequest):
    """The client has no API key, or an unknown one."""

    status, code, title = 401, "unauthorized", "The request needs an API key"


class UnknownModel(BadRequest):
    """No model has the name or the version."""

    status, code, title = 404, "unknown_model", "There is no such model"


class RequestTimeout(BadRequest):
    """The request did not arrive within the time of a setting of the service."""

    status, code, title = 408, "request_timeout", "The request took too long to arrive"


class ImageTooLarge(BadRequest):
    """The image has more bytes or pixels than the service allows."""

    status, code, title = 413, "image_too_large", "The image is too large"


class UnsupportedImage(BadRequest):
    """The bytes are no image in a supported format."""

    status, code, title = 415, "unsupported_image", "The bytes are not an image in a supported format"


class UnsupportedEncoding(BadRequest):
    """The body is encoded in a way that the route does not accept."""

    status, code, title = 415, "unsupported_encoding", "The body is encoded"


class UnreadableImage(BadRequest):
    """The bytes start like an image but cannot be decoded."""

    status, code, title = 422, "unreadable_image", "The image cannot be decoded"


class InvalidParameter(BadRequest):
    """A parameter, such as `top_k`, is not valid."""

    status, code, title = 422, "invalid_parameter", "A parameter of the request is not valid"


class TooManyStreams(BadRequest):
    """The limit on streams of one RPC is reached."""

    status, code, title = 429, "too_many_streams", "The service has too many streams"


class HeadersTooLarge(BadRequest):
    """The request line and the header section exceed the limit."""

    status, code, title = 431, "headers_too_large", "The header section of the request is too large"


class NotSupported(BadRequest):
    """The request uses a part of HTTP or of a protocol that swin-serve does not implement."""

    status, code, title = 501, "not_supported", "The request uses a feature that is not implemented"


class WrongVersion(BadRequest):
    """The version of HTTP is neither 1.0 nor 1.1."""

    status, code, title = 505, "wrong_version", "The version of HTTP is not supported"


class RetryableError(ServiceError):
    """The request is fine, and may succeed later."""

    is_temporary = True


class Overloaded(RetryableError):
    """The queue is full, or too long for the timeout of the call."""

    status, code, title = 429, "overloaded", "The service has more work than it can queue"


class NotReady(RetryableError):
    """The service runs but cannot classify now."""

    status, code, title = 503, "not_ready", "The service is not ready"


class Draining(RetryableError):
    """The service is shutting down."""

    status, code, title = 503, "draining", "The service is shutting down"


class TooManyConnections(RetryableError):
    """The limit on connections is reached."""

    status, code, title = 503, "too_many_connections", "The service has too many connections"


class TooManyCalls(RetryableError):
    """The limit on calls of gRPC is reached."""

    status, code, title = 503, "too_many_calls", "The service has too many calls"


class DeadlineExceeded(RetryableError):
    """The timeout of the call has passed: the service says so, or no answer arrived."""

    status, code, title = 504, "deadline_exceeded", "The deadline of the request has passed"


class ServerError(ServiceError):
    """The service failed. The cause is in its log."""


class EngineFailed(ServerError):
    """The network failed on this image."""

    status, code, title = 500, "engine_failed", "The image could not be classified"


class InternalError(ServerError):
    """A defect of the service."""

    status, code, title = 500, "internal_error", "The service failed"


class ConnectionFailed(SwinError):
    """The service cannot be reached, or closes connections without an answer."""

    def __init__(self, detail: str, *, is_temporary: bool = True) -> None:
        super().__init__(detail)
        self.is_temporary = is_temporary


class InvalidAnswer(SwinError):
    """The answer is not one of swin-serve: the URL belongs to another server, or a proxy changed the answer."""


class UnusableImage(SwinError):
    """This program cannot read the image: its file, or its Pillow image."""


class DownloadFailed(UnusableImage):
    """The URL of the image cannot be downloaded.

    Attributes:
        status: the HTTP status of its server. None if it did not answer.
    """

    status: int | None = None

    def __init__(self, detail: str, *, is_temporary: bool = False) -> None:
        super().__init__(detail)
        self.is_temporary = is_temporary


# Statuses that servers and proxies send while they cannot serve. The request did nothing.
TEMPORARY_STATUSES = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


def error_of(status: int, headers: Mapping[str, str], content: bytes) -> ServiceError:
    """Return the exception for a response with a status of 400 or above."""
    document = _document(content)
    phrase = _phrase(status)
    code, detail = document.get("code"), document.get("detail")
    kind = BY_CODE.get(code) if isinstance(code, str) else None
    error = (kind or _by_status(status))(detail if isinstance(detail, str) else f"the answer is {status} {phrase}")
    title = document.get("title")
    error.status = status
    error.code = code if isinstance(code, str) else phrase.lower().replace(" ", "_")
    error.title = title if isinstance(title, str) else phrase
    error.request_id = headers.get("x-request-id")
    error.retry_after = retry_after_of(headers)
    return error


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of `Retry-After` (RFC 9110, section 10.2.3), or None. A date counts from `Date`."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal() and value.isascii():
        return float(value)
    try:
        at, now = parsedate_to_datetime(value), parsedate_to_datetime(headers.get("date", ""))
        return max((at - now).total_seconds(), 0)
    except (ValueError, TypeError):  # no date, or only one of them has a time zone
        return None


def _document(content: bytes) -> Mapping[str, object]:
    try:
        document = json.loads(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown Status"


def _by_status(status: int) -> type[ServiceError]:
    if status in TEMPORARY_STATUSES:
        return RetryableError
    return BadRequest if status < HTTPStatus.INTERNAL_SERVER_ERROR else ServerError


def _leaves(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    for each in kind.__subclasses__():
        if each.code:
            yield each
        yield from _leaves(each)


BY_CODE: Mapping[str, type[ServiceError]] = {kind.code: kind for kind in _leaves(ServiceError)}
