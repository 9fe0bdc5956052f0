"""The timeout of tests, and the wait for a condition."""

import time
from collections.abc import Callable

# The longest wait for an event. A longer wait is a hang: a busy machine needs seconds.
HANG_SECONDS = 120


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, where no event tells of it."""
    ends_at = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < ends_at, "the condition did not come to hold"
        time.sleep(0.01)
