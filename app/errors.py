"""Everything that can go wrong, drawn once.

Exception
├── ServiceError               one request failed; becomes an RFC 9457 problem document
│   ├── BadRequest
│   │   ├── MalformedRequest   400
│   │   ├── Unauthorized       401
│   │   ├── RequestTimeout         408
│   │   ├── ImageTooLarge      413
│   │   ├── UnsupportedImage   415
│   │   ├── UnsupportedEncoding 415
│   │   ├── UnreadableImage    422
│   │   ├── InvalidParameter          422
│   │   ├── HeadersTooLarge       431
│   │   ├── NotSupported       501
│   │   └── WrongVersion       505
│   ├── RetryableError                   nothing is wrong with the request; try again, Retry-After says when
│   │   ├── Overloaded         429
│   │   ├── NotReady           503
│   │   ├── Draining           503
│   │   ├── TooManyConnections 503
│   │   └── DeadlineExceeded   504
│   └── ServerError                 the fault is ours; details go to the log only
│       ├── EngineFailed       500
│       └── InternalError      500
└── StartError                 the process says what is wrong in one line and exits with 2
    ├── BundleError            the bundle is missing, damaged, or not what this version reads
    └── DeviceError            the device asked for cannot be proved to be there

`detail` is for the caller: it holds no path, version or stack trace.
"""

import math
import re
from typing import ClassVar

from pydantic import ValidationError


class ServiceError(Exception):
    """One request failed. Subclasses say with which HTTP status, and under which stable `code`."""

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BadRequest(ServiceError):
    """The request cannot be answered as it is."""


class MalformedRequest(BadRequest):
    """What was sent is not valid HTTP."""

    status, code, title = 400, "malformed_request", "The request is not valid HTTP"


class Unauthorized(BadRequest):
    """The request brings no key, or none that is known."""

    status, code, title = 401, "unauthorized", "The request needs a key"

    def __init__(self) -> None:
        super().__init__("Send one of the service's keys in one header: Authorization: Bearer KEY.")


class RequestTimeout(BadRequest):
    """The request did not arrive in the time a setting allows."""

    status, code, title = 408, "request_timeout", "The request took too long to arrive"


class ImageTooLarge(BadRequest):
    """The body has more bytes, or the image more pixels, than a setting allows."""

    status, code, title = 413, "image_too_large", "The image is too large"


class UnsupportedImage(BadRequest):
    """The bytes are not an image in a format the service reads."""

    status, code, title = 415, "unsupported_image", "The bytes are not an image in a supported format"


class UnsupportedEncoding(BadRequest):
    """The body, or a part of a form, is compressed or otherwise encoded."""

    status, code, title = 415, "unsupported_encoding", "The body is encoded"


class UnreadableImage(BadRequest):
    """The bytes begin like an image but cannot be decoded."""

    status, code, title = 422, "unreadable_image", "The image cannot be decoded"


class InvalidParameter(BadRequest):
    """A query parameter, a header or the shape of the form is wrong."""

    status, code, title = 422, "invalid_parameter", "An option of the request is not valid"


class HeadersTooLarge(BadRequest):
    """The request's line and headers have more bytes than anybody needs."""

    status, code, title = 431, "headers_too_large", "The head of the request is too large"

    def __init__(self) -> None:
        super().__init__("The request's line and headers are too long.")


class NotSupported(BadRequest):
    """The request is valid HTTP, but needs a part of it that the service does not have."""

    status, code, title = 501, "not_supported", "The request needs a part of HTTP that the service does not have"


class WrongVersion(BadRequest):
    """The request is of another version of HTTP than 1.0 and 1.1."""

    status, code, title = 505, "wrong_version", "The version of HTTP is not supported"


class RetryableError(ServiceError):
    """Nothing is wrong with the request: the same one may succeed in `retry_after` seconds."""

    retry_after = 1


class Overloaded(RetryableError):
    """There is more work ahead than may wait, or than the request's deadline allows; `seconds` of it, as expected."""

    status, code, title = 429, "overloaded", "The service has more work than it can queue"

    def __init__(self, seconds: float) -> None:
        self.retry_after = max(math.ceil(seconds), 1)
        super().__init__(f"There is too much work ahead. Try again in {self.retry_after} s.")


class NotReady(RetryableError):
    """The service runs but cannot classify."""

    status, code, title = 503, "not_ready", "The service is not ready"

    def __init__(self) -> None:
        super().__init__("The service cannot classify at the moment.")


class Draining(RetryableError):
    """The service is shutting down: it finishes what it accepted and takes nothing new."""

    status, code, title = 503, "draining", "The service is shutting down"

    def __init__(self) -> None:
        super().__init__("The service is shutting down. Another instance will answer.")


class TooManyConnections(RetryableError):
    """As many callers are connected as may be."""

    status, code, title = 503, "too_many_connections", "The service has too many callers"

    def __init__(self) -> None:
        super().__init__("Too many connections are open.")


class DeadlineExceeded(RetryableError):
    """The answer would have come too late, or it did."""

    status, code, title = 504, "deadline_exceeded", "The answer did not come in time"

    def __init__(self) -> None:
        super().__init__("The image could not be classified in the time that the request had.")


class ServerError(ServiceError):
    """The fault is ours. What it was goes to the log, not to the caller."""


class EngineFailed(ServerError):
    """The model could not be run on this batch."""

    status, code, title = 500, "engine_failed", "The image could not be classified"

    def __init__(self) -> None:
        super().__init__("The model failed on this request. The cause is in the service's log.")


class InternalError(ServerError):
    """Something happened that no other error describes: a defect."""

    status, code, title = 500, "internal_error", "The service failed"

    def __init__(self) -> None:
        super().__init__("The service failed on this request. The cause is in the service's log.")


class StartError(Exception):
    """The service cannot start as configured."""


class BundleError(StartError):
    """The bundle is missing, damaged, or not what this version reads."""


class DeviceError(StartError):
    """The device asked for cannot be proved to be there."""


PLAIN = {"extra_forbidden": "it is not known here", "missing": "it is missing"}
"""By pydantic's kind of error, what is said in place of its words."""
KINDS = {"int", "float", "str", "bool", "dict", "list", "tuple"}
"""Names of types, which pydantic puts among those of fields."""


def sentence(error: Exception) -> str:
    """The first line of what another library has to say: of pydantic, the first field and what is wrong with it."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        said = PLAIN.get(first["type"], first["msg"].removeprefix("Value error, "))
        return f"{_field(first['loc']) or 'document'}: {said}"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _field(places: tuple[int | str, ...]) -> str:
    """The way to a field, without the kinds that its value may have (`tuple[int, ...]`)."""
    names = [str(place) for place in places if isinstance(place, int) or re.fullmatch(r"\w+", place)]
    return ".".join(name for position, name in enumerate(names) if position == 0 or name not in KINDS)
