"""Number and time of the batches of each size. Knows no metric."""

from typing import NamedTuple


class Duration(NamedTuple):
    """A number of events, and the seconds that they took together."""

    events: int
    seconds: float


class BatchTimes:
    """The number and the time of the batches of each size, and the time of the last one."""

    def __init__(self) -> None:
        self.by_size: dict[int, Duration] = {}
        self.last_at = 0.0  # seconds since the epoch; 0: none

    def record(self, size: int, seconds: float, now: float) -> None:
        """Count one batch that ended now."""
        events, total = self.by_size.get(size, Duration(0, 0.0))
        self.by_size[size] = Duration(events + 1, total + seconds)
        self.last_at = now
