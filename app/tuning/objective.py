"""The objective of a run: a percentile of latency that must not be exceeded. Measures nothing."""

import math
import re
from dataclasses import dataclass

import numpy as np

from app.errors import StartError
from app.load.windows import Window

PATTERN = re.compile(r"p(\d{1,2}(?:\.\d{1,2})?)=(\d+(?:\.\d+)?)(ms|s)", re.ASCII)

# Bounds of a latency, in seconds. Within less than the lower one, no image passes HTTP.
MIN_SECONDS, MAX_SECONDS = 0.0001, 600

# Products with a percentage such as 99.9 differ from whole numbers by less.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Objective:
    """The latency within which a percentage of all requests must be answered with 200."""

    percentile: float
    seconds: float

    @property
    def milliseconds(self) -> float:
        """The latency, in milliseconds."""
        return self.seconds * 1e3

    @property
    def name(self) -> str:
        """The percentile, as in `p99`."""
        return f"p{self.percentile:g}"

    def __str__(self) -> str:
        return f"{self.name} <= {self.milliseconds:g} ms"

    def is_met_by(self, window: Window) -> bool:
        """Return whether enough requests were in time. Refused, failed and lost requests are late."""
        return self.is_met(int((window.latencies <= self.seconds).sum()), sum(window.counts))

    def is_met(self, in_time: int, requests: int) -> bool:
        """Return whether so many of these requests in time are enough. No requests show nothing."""
        allowed = math.floor(requests * (100 - self.percentile) / 100 + ROUNDING)
        return requests > 0 and requests - in_time <= allowed

    def latency_ms(self, window: Window) -> float:
        """Return the percentile over all requests. It is infinite if too many have no answer with 200."""
        return percentile_ms(window, self.percentile)


def percentile_ms(window: Window, percentile: float) -> float:
    """Return a percentile of latency in which a request without an answer with 200 takes forever."""
    total = sum(window.counts)
    if not total:
        return math.nan
    place = min(max(math.ceil(total * percentile / 100 - ROUNDING), 1), total) - 1
    if place >= len(window.latencies):
        return math.inf
    return float(np.partition(window.latencies, place)[place]) * 1e3


def parse_objective(text: str) -> Objective:
    """Return the objective that `p99=50ms` or `p95=0.2s` says.

    Raises:
        StartError: the text says no objective.
    """
    if match := PATTERN.fullmatch(text.strip()):
        percentile, seconds = float(match[1]), float(match[2]) / (1e3 if match[3] == "ms" else 1)
        if percentile >= 1 and MIN_SECONDS <= seconds <= MAX_SECONDS:
            return Objective(percentile, seconds)
    raise StartError(
        f"--slo {text!r}: not an objective; give a percentile from p1 to p99.99 and a latency from 0.1ms to 600s, "
        "as p99=50ms or p95=0.2s"
    )
