"""The end of a process: after its pool threads, or without those that do not end in time.

The only module that calls `os._exit`.
"""

import logging
import os
import sys
import threading
import time
from typing import NoReturn

log = logging.getLogger("swin.server")

# The first part of the names of threads that run engines, decode images, wait for the answers of a command, and measure
# the costs of a request.
POOLS = ("engine", "decode", "classify", "costs")

# The timeout for pool threads. A thread that was shut down ends within milliseconds, or after the
# batch or image that it works on.
JOIN_TIMEOUT_SECONDS = 2


def end(code: int) -> int:
    """Return the exit code when the pool threads have ended; exit at once if one of them times out.

    A run that never returns cannot be cancelled, and Python would wait for its thread.
    """
    deadline = time.monotonic() + JOIN_TIMEOUT_SECONDS
    pools = [thread for thread in threading.enumerate() if thread.name.startswith(POOLS)]
    for thread in pools:
        thread.join(max(deadline - time.monotonic(), 0))
    if timed_out := [thread.name for thread in pools if thread.is_alive()]:
        log.warning("threads timed out at exit", extra={"threads": ", ".join(timed_out)})
        exit_now(code)
    return code


def exit_now(code: int) -> NoReturn:
    """End the process at once: wait for no thread, and clean nothing up."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
