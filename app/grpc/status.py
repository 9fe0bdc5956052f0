"""The gRPC status of each error of a request. Knows no call."""

from collections.abc import Mapping

from grpc import StatusCode

from app import errors
from app.errors import RetryableError, ServiceError

# Trailing metadata of gRPC's retries (gRFC A6): milliseconds until the client may send the request again.
PUSHBACK = "grpc-retry-pushback-ms"

# A status for each class of errors, or for its base class. UNAVAILABLE is the status that clients retry.
STATUS: Mapping[type[ServiceError], StatusCode] = {
    errors.BadRequest: StatusCode.INVALID_ARGUMENT,
    errors.Unauthorized: StatusCode.UNAUTHENTICATED,
    errors.UnknownModel: StatusCode.NOT_FOUND,
    errors.RequestTimeout: StatusCode.DEADLINE_EXCEEDED,
    errors.ImageTooLarge: StatusCode.RESOURCE_EXHAUSTED,
    errors.NotSupported: StatusCode.UNIMPLEMENTED,
    errors.TooManyStreams: StatusCode.RESOURCE_EXHAUSTED,
    errors.RetryableError: StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    errors.ServerError: StatusCode.INTERNAL,
}


def status_of(error: ServiceError) -> StatusCode:
    """Return the status of the most specific class of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def trailing_metadata(error: ServiceError) -> tuple[tuple[str, str], ...]:
    """Return when to send the request again, if the status is one that clients retry."""
    if isinstance(error, RetryableError) and status_of(error) is StatusCode.UNAVAILABLE:
        return ((PUSHBACK, str(error.retry_after * 1000)),)
    return ()
