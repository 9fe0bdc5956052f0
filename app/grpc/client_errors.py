"""The errors of grpc that only tell of its clients, in calls and in the log of grpc. Knows no call."""

import logging

from grpc.aio import InternalError

# The message of grpc's error if it cannot send or receive because the call has ended. Its other errors are defects.
ENDED = 'Failed "execute_batch"'

# The name of grpc's error for calls of a stopped server, of which the last call has been cancelled. It is not public.
STOPPED = "_ServerStoppedError"

# The start of the line for metadata that are not UTF-8. grpc logs it with a stack trace, twice for each call.
NO_TEXT = "Invalid encoding"


def is_cancellation(error: object) -> bool:
    """Return whether an error tells that the call has ended. A disconnect during `write` raises it."""
    if isinstance(error, InternalError):
        return str(error).startswith(ENDED)
    return type(error).__name__ == STOPPED


class ClientErrors(logging.Filter):
    """A filter that drops lines about errors of clients, which could otherwise fill the log with stack traces."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = (record.exc_info and record.exc_info[1]) or record.msg  # grpc also logs errors as messages
        if isinstance(error, UnicodeDecodeError):  # the name of an RPC; if it ends a server, `Port` logs that
            return False
        return not (str(record.msg).startswith(NO_TEXT) or is_cancellation(error))


logging.getLogger("grpc._cython.cygrpc").addFilter(ClientErrors())
