"""The confirmation: finalists and defaults side by side, then the winner without each of its settings.

Knows no processes: a fleet gives the meters.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.tuning.candidate import DEFAULTS, Candidate
from app.tuning.measurement import Measurement, in_time
from app.tuning.objective import Objective
from app.tuning.run import Run
from app.tuning.schedule import (
    CONFIRMATION_END,
    MAX_CONFIRMATION_SECONDS,
    MIN_WINDOW_SECONDS,
    SIMPLIFICATION_END,
)
from app.tuning.service_process import ServiceEnded

# Windows of each candidate. They alternate.
WINDOWS = 2

# The plan of the time expects so many attempts that fail by the first window. Each window takes a part of the time that
# is left, so some is left for every attempt.
EXPECTED_FAILURES = 3

# The time to keep for the start of a process, in starts of the first one.
START_RESERVE = 1.25

# Lower is better: a latency, or the CPU time of a request.
Score = Callable[[Measurement], float]


class Attempt(NamedTuple):
    """A candidate, and a rate that it should hold, in requests per second."""

    candidate: Candidate
    rate: float


@dataclass
class Confirmation:
    """A rate, the candidate that holds it, and all windows at this rate."""

    candidate: Candidate
    rate: float
    windows: list[Measurement]  # of the candidate
    defaults: list[Measurement]  # of the defaults


@dataclass(frozen=True)
class Gain:
    """A setting, and the windows with and without it. Without windows, its gain could not be measured."""

    name: str
    with_it: Measurement | None = None
    without_it: Measurement | None = None


@dataclass
class Simplification:
    """The candidate without the settings that gain nothing."""

    candidate: Candidate
    gains: list[Gain] = field(default_factory=list)  # of the settings that are left
    removed: list[str] = field(default_factory=list)
    windows: list[Measurement] = field(default_factory=list)  # with what is left, and with what was removed after them
    disturbed: list[Measurement] = field(default_factory=list)  # windows when the rate did not hold: they do not count


def latency(measurement: Measurement) -> float:
    """Return the percentile of the objective: the score of the highest rate."""
    return measurement.latency_ms


def cpu_time(measurement: Measurement) -> float:
    """Return the CPU time of a request: the score at a rate that is given."""
    return measurement.cpu_ms


async def confirm(attempts: Sequence[Attempt], objective: Objective, score: Score, run: Run) -> Confirmation | None:
    """Measure a candidate and the defaults in each of these attempts, until one of both is confirmed. None if none is.

    A rate holds if enough requests of all its windows together are in time.

    For the highest rate, the candidate is better if it holds a rate that the defaults do not hold, and its worst window
    is better than the best one of the defaults. With `cpu_time`, it is better if it holds the rate and the defaults do
    not, or if both hold it and its dearest window is cheaper than the cheapest one of the defaults.
    """
    for failures, attempt in enumerate(attempts):
        # One entry, if the attempt is with the defaults.
        windows = {candidate: list[Measurement]() for candidate in (attempt.candidate, DEFAULTS)}
        await _alternate(windows, attempt.rate, objective, run, failures=failures, left=len(attempts) - failures - 1)
        is_complete = all(windows.values()) and attempt.candidate not in run.failed
        if is_complete and (found := _judged(attempt, windows, objective, score)):
            return found
    return None


async def _alternate(
    windows: dict[Candidate, list[Measurement]],
    rate: float,
    objective: Objective,
    run: Run,
    *,
    failures: int,
    left: int,
) -> None:
    """Measure windows of each candidate in turns, while there is time and one of them can be confirmed.

    So many attempts have failed, and so many are left. In the last one, each candidate is measured.
    """
    spare = min(max(EXPECTED_FAILURES - failures, 1), left)
    turns = [*windows] * WINDOWS
    # After more failures, or long trials, an answer is worth more than the gain of each of its settings.
    is_late = run.schedule.left_until(CONFIRMATION_END) < len(turns) * (MIN_WINDOW_SECONDS + run.schedule.around)
    end = SIMPLIFICATION_END if is_late or failures >= EXPECTED_FAILURES else CONFIRMATION_END
    for done, candidate in enumerate(turns):
        least = len(turns) - done
        if not await run.start(candidate):  # before the length of the window is chosen, because it takes time
            return
        seconds = run.schedule.window(end, least + spare, rate, least=least, longest=MAX_CONFIRMATION_SECONDS)
        if seconds is None:
            return
        if (window := await run.window("confirmation", candidate, rate, seconds)) is None:
            return
        windows[candidate].append(window)
        if left and not any(hold(each, objective) for each in windows.values()):
            return


def _judged(
    attempt: Attempt, windows: dict[Candidate, list[Measurement]], objective: Objective, score: Score
) -> Confirmation | None:
    """Return the candidate that is confirmed in this attempt, or None."""
    candidate, rate = attempt
    own, defaults = windows[candidate], windows[DEFAULTS]
    defaults_hold = hold(defaults, objective)
    scores_better = max(map(score, own)) < min(map(score, defaults))
    by_cost = score is cpu_time
    is_better = (by_cost and scores_better) if defaults_hold else (by_cost or scores_better)
    if candidate != DEFAULTS and hold(own, objective) and is_better:
        return Confirmation(candidate, rate, own, defaults)
    return Confirmation(DEFAULTS, rate, defaults, defaults) if defaults_hold else None


def hold(windows: Sequence[Measurement], objective: Objective) -> bool:
    """Return whether enough requests of these windows together were in time."""
    return objective.is_met(*in_time(windows))


async def simplify(confirmed: Confirmation, objective: Objective, score: Score, run: Run) -> Simplification:
    """Remove the settings of the confirmed candidate that gain nothing beyond its spread, one after the other.

    Each setting is left out in one window, beside a window of the same moment with it. Settings are removed from what
    is left, so that two settings that replace each other are not both removed.
    """
    result = Simplification(confirmed.candidate)
    names = confirmed.candidate.measured
    for index, name in enumerate(names):
        pair = await _pair(result.candidate, name, confirmed.rate, len(names) - index, run)
        if pair is None:
            result.gains.append(Gain(name))
            continue
        with_it, without_it = pair
        own = [*confirmed.windows, *result.windows, with_it]
        if not hold(own, objective):  # something disturbed the pair
            result.disturbed.append(with_it)
            result.gains.append(Gain(name))
            continue
        result.windows.append(with_it)
        if _is_worse(without_it, own, score) or not hold([*own, without_it], objective):
            result.gains.append(Gain(name, with_it, without_it))
            continue
        run.fleet.release(result.candidate)
        result.candidate = result.candidate.without(name)
        result.removed.append(name)
        result.windows.append(without_it)
    return result


def _is_worse(window: Measurement, others: Sequence[Measurement], score: Score) -> bool:
    """Return whether a window is worse than all of the others: by its score, or because it alone is late so often."""
    is_late = not window.holds and window.share_in_time < min(other.share_in_time for other in others)
    return is_late or score(window) > max(map(score, others))


async def _pair(
    candidate: Candidate, name: str, rate: float, left: int, run: Run
) -> tuple[Measurement, Measurement] | None:
    """Measure a candidate with and without a setting; None if there is no time, or a service fails.

    The answer has been confirmed, so here the tuner goes on without the defaults, too.
    """
    with contextlib.suppress(ServiceEnded):
        return await _measured_pair(candidate, name, rate, left, run)
    return None


async def _measured_pair(
    candidate: Candidate, name: str, rate: float, left: int, run: Run
) -> tuple[Measurement, Measurement] | None:
    starts = START_RESERVE * run.fleet.start_seconds * (1 if run.fleet.limit > 1 else 2)
    if run.schedule.left_until(SIMPLIFICATION_END) < starts + 2 * (MIN_WINDOW_SECONDS + run.schedule.around):
        return None
    without = candidate.without(name)
    run.report(f"starting {without}")
    if run.fleet.limit > 1:
        await run.start(candidate)  # so that another service gives way to the next one
    without_it = await _window_of_pair(f"without {name}", without, rate, 2 * left, run)
    with_it = await _window_of_pair(f"with {name}", candidate, rate, 2 * left - 1, run) if without_it else None
    return (with_it, without_it) if with_it and without_it else None


async def _window_of_pair(phase: str, candidate: Candidate, rate: float, left: int, run: Run) -> Measurement | None:
    """Measure a window, one of so many that are left; None if there is no time, or the service fails."""
    if not await run.start(candidate):  # before the length of the window is chosen, because it takes time
        return None
    seconds = run.schedule.window(SIMPLIFICATION_END, left, rate, least=left)
    return None if seconds is None else await run.window(phase, candidate, rate, seconds)
