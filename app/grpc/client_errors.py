"""The errors of grpc that only tell of its clients, in calls and in the log of grpc. Knows no call."""

import logging

from grpc.aio import InternalError

# The message of grpc's error if it cannot send or receive because the call has ended. Its other errors are defects.
ENDED = 'Failed "execute_batch"'

# The name of grpc's error for calls of a stopped server, of which the last call has been cancelled. It is not public.
STOPPED = "_ServerStoppedError"

# The start of the line for metadata that are not UTF-8. grpc logs it with a stack trace, twice for each call.
NO_TEXT = "Invalid encoding"


def is_cancellation(error: BaseException | None) -> bool:
    """Return whether an error tells that the call has ended. A disconnect during `write` raises it."""
    if isinstance(error, InternalError):
        return str(error).startswith(ENDED)
    return type(error).__name__ == STOPPED


class ClientErrors(logging.Filter):
    """A filter that drops lines about errors of clients, which could otherwise fill the log with stack traces."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, UnicodeDecodeError):  # the name of an RPC: `Port` logs what follows
            return False
        error = record.exc_info[1] if record.exc_info else None
        return not (str(record.msg).startswith(NO_TEXT) or is_cancellation(error))


logging.getLogger("grpc._cython.cygrpc").addFilter(ClientErrors())
