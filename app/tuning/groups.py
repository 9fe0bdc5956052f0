"""All candidates in groups of as many services as may run at once: starts and trials, one group after the other.

A group is left before the next one starts, so no service starts twice. Knows no processes.
"""

from collections.abc import Sequence

from app.tuning.prediction import Prediction
from app.tuning.run import Run
from app.tuning.schedule import TRIALS_END, planned_start
from app.tuning.trials import Later, Trial, find_highest_rates, measure_at

# Requests of a single client before the load of a candidate, and the bounds of their time in seconds.
ALONE_REQUESTS, MIN_ALONE_SECONDS, MAX_ALONE_SECONDS = 30, 0.5, 3.0


def alone_seconds(latency: float) -> float:
    """Return the seconds of a single client, by the seconds of a request."""
    return min(max(ALONE_REQUESTS * latency, MIN_ALONE_SECONDS), MAX_ALONE_SECONDS)


async def try_all(defaults: Trial, predictions: Sequence[Prediction], rate: float | None, run: Run) -> list[Trial]:
    """Try the defaults, which run already, and these candidates. Return the trials of all that start in time.

    Args:
        defaults: their trial, without windows.
        predictions: of the candidates, the best first.
        rate: requests per second; None to search the highest rate of each.
        run: the run.
    """
    trials, waiting = list[Trial](), [*predictions]
    group = [defaults, *await _started(waiting, run.fleet.limit - 1, run)]
    if not waiting:
        run.schedule.end_starts()
    while group:
        later = Later(len(waiting), len(waiting) * planned_start(run.fleet.start_seconds))
        if rate is None:
            await find_highest_rates(group, run, earlier=trials, later=later)
        else:
            await measure_at(rate, group, run, later=later)
        trials += group
        group = await _started(waiting, run.fleet.limit, run)
    return trials


async def _started(waiting: list[Prediction], count: int, run: Run) -> list[Trial]:
    """Start so many of the candidates that wait. If the time is over, none waits any longer."""
    group = list[Trial]()
    while waiting and len(group) < count:
        if run.schedule.left_until(TRIALS_END) < run.fleet.start_seconds:
            waiting.clear()
            break
        prediction = waiting.pop(0)
        run.report(f"starting {prediction.candidate}")
        # A single client also warms the service up.
        if alone := await run.alone(prediction.candidate, alone_seconds(prediction.latency)):
            group.append(Trial(prediction, alone))
    return group
