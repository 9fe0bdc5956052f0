"""Windows of load with chosen figures, without load."""

import math
from collections.abc import Mapping

import numpy as np

from app.load.windows import PERCENTILES, Counts, Window


def window(
    clients: int | None = None,
    rate: float | None = None,
    *,
    counts: tuple[int, int, int, int] = (1000, 0, 0, 0),
    median_ms: float = 5.0,
    late_ms: float = 0.1,
    failures: Mapping[int, int] | None = None,
    ended: int | None = None,
    ok_with_warm_up: int | None = None,
) -> Window:
    """Return a window. Its percentiles are multiples of the median, or NaN without a good response."""
    median_ms = median_ms if counts[0] else math.nan
    return Window(
        offered_per_second=rate,
        clients=clients,
        requests_per_second=counts[0] / 5,
        counts=Counts(*counts),
        ended=sum(counts[:3]) if ended is None else ended,
        ok_with_warm_up=counts[0] if ok_with_warm_up is None else ok_with_warm_up,
        latency_ms={percentile: median_ms * percentile / 50 for percentile in PERCENTILES},
        max_ms=4 * median_ms,
        late_ms=late_ms,
        failures=failures or {},
        latencies=np.array([]),
    )
