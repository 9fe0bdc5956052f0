"""The figures of a sweep for people and for programs: tables, JSON, and sentences on how far to trust them.

Prints nothing.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from app.load.other_work import MAX_OTHER_CORES
from app.load.sweep import Measured, Sweep
from app.load.windows import Window

# Shown for a value that does not exist.
NOTHING = "–"

# A generator is late if the 99th percentile of its lateness exceeds this share of the median latency, and this time in
# ms: the resolution of the timers of uvloop.
LATE_SHARE, LATE_MS = 0.1, 1.0

# From this number of responses on, a 99th percentile does not rest on one of them.
MIN_RESPONSES_FOR_P99 = 100

# Percentiles and counts that are shown.
SHOWN_PERCENTILES, COUNTS = (50, 90, 99), ("ok", "refused", "failed", "lost")

CLOSED, OPEN = "closed loop: clients that wait for their responses", "open loop: requests that arrive at random"


class Table(NamedTuple):
    """A table of texts. Its columns are numbers, but some."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: Sequence[int] = ()  # the places of columns with words


def tables(sweep: Sweep) -> Sequence[Table]:
    """Return a table for each kind of loop that was measured."""
    kinds: Sequence[tuple[str, str, Sequence[Measured], Callable[[Window], str]]] = (
        (CLOSED, "clients", sweep.closed, lambda window: f"{window.clients:,}"),
        (OPEN, "arrivals/s", sweep.open, lambda window: decimal(window.offered_per_second)),
    )
    times = [*(f"p{percentile} ms" for percentile in SHOWN_PERCENTILES), "max ms"]
    return [
        Table(title, [first, "requests/s", *times, *COUNTS], [_cells(*row, of) for row in measured])
        for title, first, measured, of in kinds
        if measured
    ]


def _cells(window: Window, _: float | None, first: Callable[[Window], str]) -> Sequence[str]:
    times = [*(window.latency_ms[percentile] for percentile in SHOWN_PERCENTILES), window.max_ms]
    return [
        first(window),
        decimal(window.requests_per_second),
        *map(milliseconds, times),
        *(f"{getattr(window.counts, name):,}" for name in COUNTS),
    ]


def decimal(value: float | None) -> str:
    """Return a rate as text."""
    return NOTHING if value is None else f"{value:,.1f}"


def milliseconds(value: float) -> str:
    """Return a time as text, with about three digits."""
    if math.isnan(value):
        return NOTHING
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"  # noqa: PLR2004 (digits before the point)


def as_json(measured: Measured) -> dict[str, Any]:
    """Return the figures of a window by name. A value that does not exist is None."""
    window, counts = measured.window, measured.window.counts
    figures: dict[str, Any] = {"clients": window.clients}
    if window.offered_per_second is not None:
        figures = {"arrivals_per_second": round(window.offered_per_second, 3)}
    times = {f"p{percentile}_ms": value for percentile, value in window.latency_ms.items()} | {"max_ms": window.max_ms}
    if window.clients is None:
        times["late_ms"] = window.late_ms
    cores = measured.other_cores
    return {
        **figures,
        "requests_per_second": round(window.requests_per_second, 3),
        **{name: None if math.isnan(value) else round(value, 3) for name, value in times.items()},
        **counts._asdict(),
        "failures": {str(status): count for status, count in sorted(window.failures.items())},
        "other_cores": None if cores is None else round(cores, 3),
    }


def doubts(sweep: Sweep) -> Sequence[str]:
    """Return sentences on what disturbed the figures, each with what to do."""
    windows = [measured.window for measured in sweep.all]
    late = [window.late_ms for window in windows if _is_late(window)]
    other = max((measured.other_cores or 0.0 for measured in sweep.all), default=0.0)
    few = sum(0 < window.counts.ok < MIN_RESPONSES_FOR_P99 for window in windows)
    empty = sum(not window.ended for window in windows)
    behind = sum(window.is_behind for window in windows)
    found = list[str]()
    if late:
        found.append(
            f"In {_number(len(late), 'window')}, the load generator was busy and sent one request in a hundred "
            f"{milliseconds(max(late))} ms late or later: run it on another machine, or lower the rates."
        )
    if other > MAX_OTHER_CORES:
        found.append(
            f"Other processes used up to {other:.2f} of the {os.cpu_count()} cores of this machine: measure again "
            "without them."
        )
    if few:
        found.append(
            f"In {_number(few, 'window')}, p99 rests on fewer than {MIN_RESPONSES_FOR_P99} responses: raise --seconds."
        )
    if behind:
        found.append(
            f"In {_number(behind, 'window')}, requests arrived faster than they were answered, so the latencies are "
            "those of a queue that grows: they say how long the window was."
        )
    if empty:
        found.append(f"In {_number(empty, 'window')}, no request ended before the end: raise --seconds.")
    if sweep.plan.rates is None and sweep.closed and not sweep.best_rate:
        found.append("No closed loop has a rate to take shares of: give --rates for an open loop.")
    return found


def faults(sweep: Sweep) -> Sequence[str]:
    """Return sentences on responses that failed and requests that were lost. They begin in lower case."""
    windows = [measured.window for measured in sweep.all]
    statuses = sum((Counter(window.failures) for window in windows), Counter[int]())
    lost = sum(window.counts.lost for window in windows)
    found = list[str]()
    if sweep.closed and not sweep.is_silent and not any(measured.window.ended for measured in sweep.closed):
        found.append("no request ended within a closed loop: raise --seconds")
    if statuses:
        by_status = ", ".join(f"{status} ({count:,})" for status, count in sorted(statuses.items()))
        found.append(f"{_number(statuses.total(), 'response')} failed, by status: {by_status}")
    if lost:
        reason = (
            "the connection ended or was refused, the response took longer than --timeout, or the request still waited "
            "for one of the clients"
        )
        found.append(f"{_number(lost, 'request')} had no response: {reason}")
    if sweep.is_silent:
        number = f"{len(sweep.all)} of {sweep.plan.windows}"
        found.append(f"the service gives no answer any more: {number} windows are measured")
    return found


def _is_late(window: Window) -> bool:
    median = window.latency_ms[50]
    limit = LATE_MS if math.isnan(median) else max(LATE_SHARE * median, LATE_MS)
    return window.clients is None and window.late_ms > limit


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: int) -> str:
    """Return a number of bytes as text."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB"):
        if value < 1000:  # noqa: PLR2004 (the step of units)
            break
        value, unit = value / 1000, larger
    return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"


def facts_of(versions: Mapping[str, str]) -> str:
    """Return names with their versions in one line."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())
