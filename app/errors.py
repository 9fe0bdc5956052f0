"""The exception tree: errors of a request, and reasons not to start. Knows no HTTP library.

Exception
├── ServiceError                 one request failed; becomes an RFC 9457 problem document
│   ├── BadRequest               the client has to change the request
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
│   ├── RetryableError           the request is fine; Retry-After says when to send it again
│   │   ├── Overloaded           429
│   │   ├── NotReady             503
│   │   ├── Draining             503
│   │   ├── TooManyConnections   503
│   │   ├── TooManyCalls         503
│   │   └── DeadlineExceeded     504
│   └── ServerError              the service failed; details go to the log only
│       ├── EngineFailed         500
│       └── InternalError        500
└── StartError                   the process prints one line and exits with 2
    ├── BundleError              the bundle is missing, damaged, or of another schema version
    └── DeviceError              the device cannot be verified

`detail` is for the client: it contains no path, version or stack trace.
"""

import math
import re
from typing import Any, ClassVar

from pydantic import ValidationError

from app.validation_messages import shorten


class ServiceError(Exception):
    """One request failed. Each subclass has an HTTP status and a stable `code`."""

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle would call the class with `args`, but most subclasses take other arguments than the detail.
        return _without_init, (type(self), self.args), vars(self)


def _without_init(kind: type[ServiceError], args: tuple[object, ...]) -> ServiceError:
    return kind.__new__(kind, *args)


class BadRequest(ServiceError):
    """The client has to change the request."""


class MalformedRequest(BadRequest):
    """The request is not valid HTTP."""

    status, code, title = 400, "malformed_request", "The request is not valid HTTP"


class InvalidBody(BadRequest):
    """The body is not what the protocol of the route defines: its JSON, its tensors or their sizes."""

    status, code, title = 400, "invalid_body", "The body of the request is not valid"


class Unauthorized(BadRequest):
    """The request has no API key, or an unknown one."""

    status, code, title = 401, "unauthorized", "The request needs an API key"

    def __init__(self) -> None:
        super().__init__("Send one API key of the service in one header field: Authorization: Bearer KEY.")


class UnknownModel(BadRequest):
    """No model has the name, or the model does not have the version, in the path of the request."""

    status, code, title = 404, "unknown_model", "There is no such model"

    def __init__(self, name: str, version: str | None = None) -> None:
        # In the words of Triton, because clients search for them.
        text = f"'{shorten(name)}'" if version is None else f"'{shorten(name)}' version {shorten(version)}"
        super().__init__(f"Request for unknown model: {text} is not found")


class RequestTimeout(BadRequest):
    """The request did not arrive within the time of a setting."""

    status, code, title = 408, "request_timeout", "The request took too long to arrive"


class ImageTooLarge(BadRequest):
    """The body has more bytes, or the image has more pixels, than a setting allows."""

    status, code, title = 413, "image_too_large", "The image is too large"


class UnsupportedImage(BadRequest):
    """The bytes are no image in a supported format."""

    status, code, title = 415, "unsupported_image", "The bytes are not an image in a supported format"


class UnsupportedEncoding(BadRequest):
    """The body, or a part of a form, is compressed or otherwise encoded in a way that the route does not accept."""

    status, code, title = 415, "unsupported_encoding", "The body is encoded"

    def __init__(self, detail: str, accepted: str = "identity") -> None:
        super().__init__(detail)
        self.accepted = accepted  # the codings that the route accepts


class UnreadableImage(BadRequest):
    """The bytes start like an image but cannot be decoded."""

    status, code, title = 422, "unreadable_image", "The image cannot be decoded"


class InvalidParameter(BadRequest):
    """A query parameter, a header field or the form is not valid."""

    status, code, title = 422, "invalid_parameter", "A parameter of the request is not valid"


class HeadersTooLarge(BadRequest):
    """The request line and the header section exceed the limit."""

    status, code, title = 431, "headers_too_large", "The header section of the request is too large"

    def __init__(self) -> None:
        super().__init__("The request line and the header section are too long together.")


class NotSupported(BadRequest):
    """The request is valid, but uses a part of HTTP or of a protocol that swin-serve does not implement."""

    status, code, title = 501, "not_supported", "The request uses a feature that is not implemented"


class WrongVersion(BadRequest):
    """The version of HTTP is neither 1.0 nor 1.1."""

    status, code, title = 505, "wrong_version", "The version of HTTP is not supported"


class RetryableError(ServiceError):
    """The request is fine, and may succeed in `retry_after` seconds."""

    retry_after = 1


class Overloaded(RetryableError):
    """The queue is full, or too long for the deadline of the request.

    `seconds` is the expected duration of the queued work.
    """

    status, code, title = 429, "overloaded", "The service has more work than it can queue"

    def __init__(self, seconds: float) -> None:
        self.retry_after = max(math.ceil(seconds), 1)
        super().__init__(f"Too much work is queued. Try again in {self.retry_after} s.")


class NotReady(RetryableError):
    """The service runs but cannot classify now."""

    status, code, title = 503, "not_ready", "The service is not ready"

    def __init__(self) -> None:
        super().__init__("The service cannot classify at the moment. Try again.")


class Draining(RetryableError):
    """The service is shutting down: it finishes accepted requests and refuses new ones."""

    status, code, title = 503, "draining", "The service is shutting down"

    def __init__(self) -> None:
        super().__init__("The service is shutting down. Send the request to another instance.")


class TooManyConnections(RetryableError):
    """The limit on connections is reached."""

    status, code, title = 503, "too_many_connections", "The service has too many connections"

    def __init__(self) -> None:
        super().__init__("Too many connections are open. Try again.")


class TooManyCalls(RetryableError):
    """The limit on calls of gRPC is reached."""

    status, code, title = 503, "too_many_calls", "The service has too many calls"

    def __init__(self) -> None:
        super().__init__("Too many calls are in progress. Try again.")


class TooManyStreams(BadRequest):
    """The limit on streams of one RPC is reached."""

    status, code, title = 429, "too_many_streams", "The service has too many streams"

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} streams of this RPC are open, which is the maximum. Close one first.")


class DeadlineExceeded(RetryableError):
    """The deadline of the request has passed, or cannot be met."""

    status, code, title = 504, "deadline_exceeded", "The deadline of the request has passed"

    def __init__(self) -> None:
        super().__init__("The image could not be classified within the time limit of the request.")


class ServerError(ServiceError):
    """The service failed. The cause is in the log, not in the response."""


class EngineFailed(ServerError):
    """The network failed on this batch."""

    status, code, title = 500, "engine_failed", "The image could not be classified"

    def __init__(self) -> None:
        super().__init__("The model failed on this request. The cause is in the service's log.")


class InternalError(ServerError):
    """A defect: an error that no other class describes."""

    status, code, title = 500, "internal_error", "The service failed"

    def __init__(self) -> None:
        super().__init__("The service failed on this request. The cause is in the service's log.")


class StartError(Exception):
    """The service cannot start as configured."""


class BundleError(StartError):
    """The bundle is missing, damaged, or of another schema version."""


class DeviceError(StartError):
    """The device cannot be verified."""


# Replacements for pydantic's messages, by its type of error.
MESSAGES = {"extra_forbidden": "unknown key", "missing": "missing key"}

# Names of types, which pydantic puts into the path of a field.
TYPE_NAMES = {"int", "float", "str", "bool", "dict", "list", "tuple"}


def sentence(error: Exception) -> str:
    """Return the first line of a library's error, or the first field of a validation error."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        message = MESSAGES.get(first["type"], first["msg"].removeprefix("Value error, "))
        return f"{_field(first['loc']) or 'document'}: {message}"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _field(places: tuple[int | str, ...]) -> str:
    """Return the path of a field, without the types of a union (`tuple[int, ...]`)."""
    names = [str(place) for place in places if isinstance(place, int) or re.fullmatch(r"\w+", place)]
    return ".".join(name for position, name in enumerate(names) if position == 0 or name not in TYPE_NAMES)
