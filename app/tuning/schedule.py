"""The time of a run: phases with deadlines, and windows as long as the time allows. Measures nothing else."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from app.tuning.measurement import ENOUGH_REQUESTS, WARM_UP_SECONDS

# The end of each phase, as a share of the whole time. The rest is for the end of the processes.
COSTS_END, TRIALS_END, CONFIRMATION_END, SIMPLIFICATION_END = 0.1, 0.58, 0.84, 0.97

# The share of the time in which candidates start, after the costs. Each takes up to this multiple of the start of the
# defaults, because HTTP workers start after the engine, and so many seconds for a single client.
STARTS_SHARE, START_FACTOR, ALONE_SECONDS = 0.25, 1.5, 1.0
STARTS_END = COSTS_END + STARTS_SHARE

# Bounds of a window, in seconds. Longer ones would find no smaller difference, because the machine changes meanwhile.
MIN_WINDOW_SECONDS, MAX_WINDOW_SECONDS, MAX_CONFIRMATION_SECONDS = 0.5, 10.0, 30.0

# Seconds around a window: its warm-up, and the reading of CPU times.
AROUND_SECONDS = WARM_UP_SECONDS + 0.3


def planned_start(start_seconds: float) -> float:
    """Return the seconds to plan for the start of a candidate and a single client, by the start of the defaults."""
    return START_FACTOR * start_seconds + ALONE_SECONDS


@dataclass
class Schedule:
    """The time that is left.

    Args:
        seconds: the whole time.
        now: the clock.
        around: seconds around a window. Requests at its end take up to the latency of the objective.
    """

    seconds: float
    now: Callable[[], float] = time.monotonic
    around: float = AROUND_SECONDS

    def __post_init__(self) -> None:
        self._started = self.now()
        self._starts_end = STARTS_END * self.seconds  # seconds since the start

    @property
    def elapsed(self) -> float:
        """The seconds since the start."""
        return self.now() - self._started

    @property
    def left(self) -> float:
        """The seconds until the end, or 0."""
        return max(self.seconds - self.elapsed, 0.0)

    @property
    def clock(self) -> str:
        """The time that is left, as minutes and seconds."""
        return f"{int(self.left) // 60}:{int(self.left) % 60:02d}"

    def left_until(self, share: float) -> float:
        """Return the seconds until a share of the whole time, or a negative number after it.

        If the candidates started late, the phases after it are all shorter.
        """
        if share <= STARTS_END:
            return share * self.seconds - self.elapsed
        last = SIMPLIFICATION_END * self.seconds
        part = (share - STARTS_END) / (SIMPLIFICATION_END - STARTS_END)
        return self._starts_end + part * (last - self._starts_end) - self.elapsed

    def end_starts(self) -> None:
        """Divide the time that is left among the next phases, if the candidates started later than planned."""
        self._starts_end = max(self.elapsed, self._starts_end)

    def candidates(self, start_seconds: float, most: int) -> int:
        """Return how many candidates can be started beside the defaults, at least one."""
        return min(max(int(STARTS_SHARE * self.seconds / planned_start(start_seconds)), 1), most)

    def window(
        self,
        end: float,
        windows: int,
        rate: float,
        *,
        least: int = 1,
        longest: float = MAX_WINDOW_SECONDS,
        starts: float = 0.0,
    ) -> float | None:
        """Return the seconds of the next window until a share of the whole time; None if no time is left.

        A window with few requests says little. So it takes more than its part of the time if it needs that for enough
        requests, as long as some other windows still fit.

        Args:
            end: the share of the whole time.
            windows: the number of windows that are planned until then, with this one.
            rate: requests per second.
            least: the number of windows that have to fit, with this one.
            longest: seconds. A window with fewer than enough requests can be longer.
            starts: the seconds in which services start until then. They get at most half of the time.
        """
        left, enough = self.left_until(end), ENOUGH_REQUESTS / rate
        left -= min(starts, left / 2)
        part, most = (left / max(number, 1) - self.around for number in (windows, least))
        seconds = min(max(part, min(enough, most)), max(longest, enough))
        if seconds < MIN_WINDOW_SECONDS:  # fewer windows than planned
            return MIN_WINDOW_SECONDS if left >= MIN_WINDOW_SECONDS + self.around else None
        return seconds
