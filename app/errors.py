"""Everything that can go wrong, drawn once.

Exception
├── ServiceError               one request failed; becomes an RFC 9457 problem document
│   ├── BadRequest
│   │   ├── ImageTooLarge      413
│   │   ├── UnsupportedImage   415
│   │   ├── UnreadableImage    422
│   │   └── BadOption          422
│   ├── Busy                   nothing is wrong with the request; try again
│   │   ├── Overloaded         429, with Retry-After
│   │   ├── NotReady           503
│   │   └── Draining           503
│   └── Failed                 the fault is ours; details go to the log only
│       ├── EngineFailed       500
│       └── InternalError      500
└── StartError                 the process says what is wrong in one line and exits with 2
    ├── BundleError            the bundle is missing, damaged, or not what this version reads
    └── DeviceError            the device asked for cannot be proved to be there

`detail` is for the caller: it holds no path, version or stack trace.
"""

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


class ImageTooLarge(BadRequest):
    """The body has more bytes, or the image more pixels, than a setting allows."""

    status, code, title = 413, "image_too_large", "The image is too large"


class UnsupportedImage(BadRequest):
    """The bytes are not an image in a format the service reads."""

    status, code, title = 415, "unsupported_image", "The bytes are not an image in a supported format"


class UnreadableImage(BadRequest):
    """The bytes begin like an image but cannot be decoded."""

    status, code, title = 422, "unreadable_image", "The image cannot be decoded"


class BadOption(BadRequest):
    """A query parameter, a header or the shape of the form is wrong."""

    status, code, title = 422, "bad_option", "An option of the request is not valid"


class Busy(ServiceError):
    """Nothing is wrong with the request: the same one may succeed later."""


class Overloaded(Busy):
    """A queue is full. `retry_after` is the number of seconds the work ahead is expected to take."""

    status, code, title = 429, "overloaded", "The service has more work than it can queue"

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"The queue is full. Try again in {retry_after} s.")
        self.retry_after = retry_after


class NotReady(Busy):
    """The service runs but cannot classify."""

    status, code, title = 503, "not_ready", "The service is not ready"

    def __init__(self) -> None:
        super().__init__("The service cannot classify at the moment.")


class Draining(Busy):
    """The service is shutting down: it finishes what it accepted and takes nothing new."""

    status, code, title = 503, "draining", "The service is shutting down"

    def __init__(self) -> None:
        super().__init__("The service is shutting down. Another instance will answer.")


class Failed(ServiceError):
    """The fault is ours. What it was goes to the log, not to the caller."""


class EngineFailed(Failed):
    """The model could not be run on this batch."""

    status, code, title = 500, "engine_failed", "The image could not be classified"

    def __init__(self) -> None:
        super().__init__("The model failed on this request. The cause is in the service's log.")


class InternalError(Failed):
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


def sentence(error: Exception) -> str:
    """The first line of what another library has to say: of pydantic, the first field and what is wrong with it."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'document'}: {first['msg']}"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
