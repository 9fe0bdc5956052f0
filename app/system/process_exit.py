"""The end of a process: after its pool threads, or without those that are stuck. The only caller of `os._exit`."""

import logging
import os
import sys
import threading
import time
from typing import NoReturn

log = logging.getLogger("swin.server")

# How the names of threads begin that run engines and decode images.
POOLS = ("engine", "decode")

# Threads that are told to end do so within milliseconds, or after the batch or image that they work on.
PATIENCE_SECONDS = 2


def end(code: int) -> int:
    """Return the exit code once the pool threads have ended; leave at once if one of them does not.

    A run that is stuck cannot be ended from outside, and Python would wait for its thread.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    pools = [thread for thread in threading.enumerate() if thread.name.startswith(POOLS)]
    for thread in pools:
        thread.join(max(until - time.monotonic(), 0))
    if stuck := [thread.name for thread in pools if thread.is_alive()]:
        log.warning("exit without stuck threads", extra={"threads": ", ".join(stuck)})
        leave(code)
    return code


def leave(code: int) -> NoReturn:
    """End the process now: no thread is waited for, and nothing is cleaned up."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
