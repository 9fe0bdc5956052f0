"""The answer of a run in words: the sentence, the remarks and the table. Measures nothing."""

import math
from collections.abc import Iterator, Sequence

from app.load.cpu_times import MAX_OTHER_SHARE
from app.tuning.candidate import DEFAULTS
from app.tuning.confirmation import hold
from app.tuning.measurement import ENOUGH_REQUESTS, Measurement, in_time
from app.tuning.trials import Trial
from app.tuning.tuner import Result

HEAD = ("predicted/s", "held/s", "latency ms", "CPU ms", "bound by", "settings")


def sentence(result: Result) -> str:
    """Return the answer."""
    confirmed, objective = result.confirmed, result.request.objective
    if confirmed is None:
        return _failure(result)
    holds = f"{per_second(confirmed.rate)} within {objective} ({_in_time(result.windows, objective.name)})"
    if result.candidate == DEFAULTS and len(result.trials) == 1:
        return (
            f"The defaults hold {holds}. No other settings were tried: the given ones leave none to try, or there was "
            "no time."
        )
    if result.candidate == DEFAULTS:
        return f"The defaults are as good as all settings that were tried: they hold {holds}."
    if not hold(confirmed.defaults, objective):
        return f"These settings hold {holds}. The defaults do not ({_in_time(confirmed.defaults, objective.name)})."
    own, theirs = (_range([window.cpu_ms for window in windows]) for windows in (result.windows, confirmed.defaults))
    return f"These settings hold {holds}, for {own} ms of CPU time a request. The defaults take {theirs} ms."


def _in_time(windows: Sequence[Measurement], percentile: str) -> str:
    """Return the requests in time of windows at one rate, and the range of a percentile."""
    count, requests = in_time(windows)
    share = count / max(requests, 1)
    return f"{share:.1%} of {requests:,} requests in time, {percentile} {_latencies_of(windows)}"


def _failure(result: Result) -> str:
    request, alone = result.request, result.alone
    if result.is_impossible:
        engine = min(costs.batches[1].seconds for costs in result.costs.engines.values()) * 1e3
        decode = min(costs.image.seconds for costs in result.costs.decode.values()) * 1e3
        return (
            f"{request.objective} cannot be held: with one request at a time, {request.objective.name} is "
            f"{milliseconds(alone.latency_ms)} at best. The network takes {number(engine)} ms for an image, and "
            f"decoding {number(decode)} ms: use a smaller or quantized network, another device, smaller images, or a "
            "longer latency."
        )
    if request.rate is not None and not any(trial.best for trial in result.trials):
        rate, best = per_second(request.rate), min(_latencies(result.trials), default=math.nan)
        return (
            f"No settings that were tried hold {rate} within {request.objective}; the best window had "
            f"{request.objective.name} {milliseconds(best)}. Without --rate, the highest rate is searched."
        )
    return (
        f"No rate was confirmed within {request.objective}. With one request at a time, {request.objective.name} was "
        f"{milliseconds(alone.latency_ms)}: the machine is too busy, or the time too short. Repeat it on a quiet "
        "machine, or with more --minutes."
    )


def _latencies(trials: Sequence[Trial]) -> Iterator[float]:
    return (window.latency_ms for trial in trials for window in trial.windows)


def remarks(result: Result) -> list[str]:
    """Return what a reader has to know about the certainty of the answer."""
    found = ["The load generator shared the machine with the service, so the rate is a lower bound."]
    fewest = min((window.requests for window in result.windows), default=ENOUGH_REQUESTS)
    if fewest < ENOUGH_REQUESTS:
        found.append(
            f"A window of the answer has only {fewest} requests, so {result.request.objective.name} rests on few of "
            f"them; from {ENOUGH_REQUESTS} on it is more certain. Give more --minutes."
        )
    if result.noise > MAX_OTHER_SHARE:
        found.append(f"Other programs took {result.noise:.0%} of the CPUs meanwhile; repeat it on a quiet machine.")
    windows = [*result.windows, *(result.simplified.disturbed if result.simplified else [])]
    held = sum(window.holds for window in windows)
    if held < len(windows):
        found.append(f"{held} of {len(windows)} windows at this rate held the latency.")
    return [*found, *result.failed]


def rows(result: Result) -> list[tuple[str, ...]]:
    """Return a row of cells for each candidate, in the columns of `HEAD`."""
    return [_row(trial) for trial in result.trials]


def _row(trial: Trial) -> tuple[str, ...]:
    best = trial.best
    latency, cpu = (number(best.latency_ms), f"{best.cpu_ms:.2f}") if best else ("", "")
    held = number(trial.held) if best else "none"
    return number(trial.prediction.rate), held, latency, cpu, trial.prediction.bound, str(trial.candidate)


def _latencies_of(windows: Sequence[Measurement]) -> str:
    """Return the range of a percentile. It is infinite in a window in which too many requests have no answer."""
    finite = [window.latency_ms for window in windows if math.isfinite(window.latency_ms)]
    if not finite:
        return milliseconds(math.inf)
    return f"{_range(finite)} ms{'' if len(finite) == len(windows) else ' or more'}"


def milliseconds(latency: float) -> str:
    """Return a latency in words. It is infinite if too many requests have no answer, and NaN without requests."""
    if math.isnan(latency):
        return "not measured"
    return f"{number(latency)} ms" if math.isfinite(latency) else "endless, because too many requests had no answer"


def per_second(rate: float) -> str:
    """Return a rate in words."""
    return f"{number(rate)} requests/s"


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def number(value: float) -> str:
    """Return a number with three digits, or all digits before the point."""
    if value >= 100:  # noqa: PLR2004 (three digits)
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004 (likewise)
