"""The confirmation: winner and defaults side by side, then the winner without each of its settings.

Knows no processes: a fleet gives the meters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from app.tuning.candidate import Candidate
from app.tuning.measurement import Measurement
from app.tuning.schedule import (
    AROUND_SECONDS,
    CONFIRMATION_END,
    MAX_CONFIRMATION_SECONDS,
    MIN_WINDOW_SECONDS,
    SIMPLIFICATION_END,
)
from app.tuning.trials import Run

DEFAULTS = Candidate()

# Windows of each candidate. They alternate.
WINDOWS = 2

# The rates for which the time is planned. If none of them holds, the windows of further ones are short.
ATTEMPTS = 3

# The time to keep for the start of a process, in starts of the first one.
START_RESERVE = 1.25

# Lower is better: a latency, or the CPU time of a request.
Score = Callable[[Measurement], float]


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


def latency(measurement: Measurement) -> float:
    """Return the percentile of the objective: the score of the highest rate."""
    return measurement.latency_ms


def cpu_time(measurement: Measurement) -> float:
    """Return the CPU time of a request: the score at a rate that is given."""
    return measurement.cpu_ms


async def confirm(winner: Candidate, rates: Sequence[float], score: Score, run: Run) -> Confirmation | None:
    """Measure the winner and the defaults at each of these rates, until one of them holds. None if none does.

    For the highest rate, the winner is better if it holds a rate that the defaults do not hold, and its worst window
    is better than the best one of the defaults. With `cpu_time`, it is better if it holds the rate and the defaults do
    not, or if both hold it and its dearest window is cheaper than the cheapest one of the defaults.
    """
    for attempt, rate in enumerate(rates):
        windows: dict[Candidate, list[Measurement]] = {winner: [], DEFAULTS: []}  # one entry if the defaults won
        await _alternate(windows, rate, min(len(rates) - attempt, ATTEMPTS), run)
        if all(windows.values()) and (found := _judged(winner, rate, windows, score)):
            return found
    return None


async def _alternate(windows: dict[Candidate, list[Measurement]], rate: float, attempts: int, run: Run) -> None:
    """Measure windows of each candidate in turns, while there is time. So many attempts share the time."""
    least = WINDOWS * len(windows)
    planned = least * attempts
    for _ in range(WINDOWS):
        for candidate, measured in windows.items():
            if not _hold(measured):  # another window cannot change that
                continue
            seconds = run.schedule.window(
                CONFIRMATION_END, planned, rate, least=least, longest=MAX_CONFIRMATION_SECONDS
            )
            planned, least = planned - 1, least - 1
            if seconds is None:
                return
            measured.append(await run.window("confirmation", candidate, rate, seconds))


def _judged(
    winner: Candidate, rate: float, windows: dict[Candidate, list[Measurement]], score: Score
) -> Confirmation | None:
    """Return the candidate that is confirmed at this rate, or None."""
    own, defaults = windows[winner], windows[DEFAULTS]
    scores_better = max(map(score, own)) < min(map(score, defaults))
    by_cost = score is cpu_time
    is_better = (by_cost and scores_better) if _hold(defaults) else (by_cost or scores_better)
    if winner != DEFAULTS and _hold(own) and is_better:
        return Confirmation(winner, rate, own, defaults)
    return Confirmation(DEFAULTS, rate, defaults, defaults) if _hold(defaults) else None


def _hold(windows: Sequence[Measurement]) -> bool:
    return all(window.holds for window in windows)


async def simplify(confirmed: Confirmation, score: Score, run: Run) -> Simplification:
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
        confirmed.windows.append(with_it)
        if not with_it.holds:  # something disturbed the pair
            result.gains.append(Gain(name))
            continue
        if not without_it.holds or score(without_it) > max(map(score, confirmed.windows)):
            result.gains.append(Gain(name, with_it, without_it))
            continue
        run.fleet.release(result.candidate)
        result.candidate = result.candidate.without(name)
        result.removed.append(name)
        confirmed.windows.append(without_it)
    return result


async def _pair(
    candidate: Candidate, name: str, rate: float, left: int, run: Run
) -> tuple[Measurement, Measurement] | None:
    """Measure a candidate with and without a setting; None if there is no time."""
    start_and_windows = START_RESERVE * run.fleet.start_seconds + 2 * (MIN_WINDOW_SECONDS + AROUND_SECONDS)
    if run.schedule.left_until(SIMPLIFICATION_END) < start_and_windows:
        return None
    without = candidate.without(name)
    run.report(f"starting {without}")
    await run.fleet.meter(without)  # before the length of the windows is chosen, because it takes time
    seconds = run.schedule.window(SIMPLIFICATION_END, 2 * left, rate, least=2 * left)
    if seconds is None:
        return None
    without_it = await run.window(f"without {name}", without, rate, seconds)
    return await run.window(f"with {name}", candidate, rate, seconds), without_it
