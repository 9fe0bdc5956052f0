"""Messages between the engine process and an HTTP worker: kinds, payloads and outcomes.

Both processes run the same version on the same machine, so messages have no version and use
the native byte order. Knows no socket.
"""

import logging
import struct
from collections.abc import Callable
from enum import IntEnum

from app.errors import (
    DeadlineExceeded,
    Draining,
    EngineFailed,
    InternalError,
    NotReady,
    Overloaded,
    RetryableError,
    ServiceError,
)

log = logging.getLogger("swin.processes")


class MessageType(IntEnum):
    """Kinds of messages, in the order of the life of an HTTP worker."""

    # From an HTTP worker.
    READY = 0  # it accepts connections; no payload
    SUBMIT = 1  # its slot holds the pixels of an image; SUBMIT_STRUCT
    CANCEL = 2  # the client of an image disconnected; CANCEL_STRUCT
    METRICS = 3  # REQUEST_ID and its pickled metrics; every second, and as the reply to GET_METRICS
    QUERY = 4  # REQUEST_ID and the name of what one of its routes needs

    # To an HTTP worker.
    RESULT = 5  # a slot is free again, with or without an output in it; RESULT_STRUCT
    GET_METRICS = 6  # REQUEST_ID
    REPLY = 7  # REPLY_STRUCT and the pickled reply to a QUERY
    SHUTDOWN = 8  # drain and exit; a second one: exit now; no payload


# Sends one message: its kind and its payload.
Send = Callable[[MessageType, bytes], None]

SUBMIT_STRUCT = struct.Struct("=I?d24s")  # slot, return_tokens, deadline, trace
CANCEL_STRUCT = struct.Struct("=I")  # slot
RESULT_STRUCT = struct.Struct("=IBd")  # slot, outcome, seconds: of the run, or until a retry makes sense
REPLY_STRUCT = struct.Struct("=I?")  # request id of the QUERY, whether it succeeded
REQUEST_ID = struct.Struct("=I")

# Outcomes of an image: an output, a cancellation, or from FIRST_ERROR on the error classes in this order.
DONE, CANCELLED, FIRST_ERROR = 0, 1, 2
ERRORS: tuple[type[ServiceError], ...] = (
    Overloaded,
    DeadlineExceeded,
    Draining,
    NotReady,
    EngineFailed,
    InternalError,  # also stands for every error that is not in this list
)


def encode_error(error: BaseException) -> tuple[int, float]:
    """Return the outcome of an error and the seconds until a retry makes sense.

    An error that is not in `ERRORS` is logged here and becomes `InternalError`, as in a service of one process.
    """
    for place, kind in enumerate(ERRORS):
        if isinstance(error, kind):
            return FIRST_ERROR + place, error.retry_after if isinstance(error, RetryableError) else 0.0
    log.error("image failed", exc_info=error)
    return FIRST_ERROR + ERRORS.index(InternalError), 0.0


def decode_error(outcome: int, seconds: float) -> ServiceError:
    """Return the error of an outcome, or `InternalError` if the outcome is unknown."""
    place = outcome - FIRST_ERROR
    kind = ERRORS[place] if 0 <= place < len(ERRORS) else InternalError
    return Overloaded(seconds) if kind is Overloaded else kind()  # type: ignore[call-arg]  # (only Overloaded needs one)
