"""The answer of a run in words: the sentence, the table, the settings file, the record. Measures nothing."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from app.tuning.candidate import BOUND, Value, variable
from app.tuning.confirmation import DEFAULTS, Gain
from app.tuning.measurement import ENOUGH_REQUESTS, Measurement, share_in_time
from app.tuning.trials import MAX_NOISE, Trial
from app.tuning.tuner import Result

HEAD = ("predicted/s", "held/s", "latency ms", "CPU ms", "bound by", "settings")

# Characters of a comment line in the settings file.
COMMENT_COLUMNS = 110


def sentence(result: Result) -> str:
    """Return the answer."""
    confirmed, objective = result.confirmed, result.request.objective
    if confirmed is None:
        return _failure(result)
    holds = f"{per_second(confirmed.rate)} within {objective} ({_in_time(confirmed.windows, objective.name)})"
    if result.candidate == DEFAULTS:
        return f"The defaults are as good as all settings that were tried: they hold {holds}."
    if result.request.rate is None:
        return f"These settings hold {holds}. The defaults do not ({_in_time(confirmed.defaults, objective.name)})."
    own, theirs = (_range([window.cpu_ms for window in windows]) for windows in (confirmed.windows, confirmed.defaults))
    return f"These settings hold {holds}, for {own} ms of CPU time a request. The defaults take {theirs} ms."


def _in_time(windows: Sequence[Measurement], percentile: str) -> str:
    """Return the requests in time of windows at one rate, and the range of a percentile."""
    requests = sum(window.requests for window in windows)
    return f"{share_in_time(windows):.1%} of {requests:,} requests in time, {percentile} {_latencies_of(windows)}"


def _failure(result: Result) -> str:
    request, alone = result.request, result.alone
    if result.is_impossible:
        engine = min(costs.batches[1].seconds for costs in result.costs.engines.values()) * 1e3
        decode = min(costs.image.seconds for costs in result.costs.decode.values()) * 1e3
        return (
            f"{request.objective} cannot be held: with one request at a time, {request.objective.name} is "
            f"{_milliseconds(alone.latency_ms)} at best. The network takes {_number(engine)} ms for an image, and "
            f"decoding {_number(decode)} ms: use a smaller or quantized network, another device, smaller images, or a "
            "longer latency."
        )
    if request.rate is not None and not any(trial.best for trial in result.trials):
        rate, best = per_second(request.rate), min(_latencies(result.trials), default=math.nan)
        return (
            f"No settings that were tried hold {rate} within {request.objective}; the best window had "
            f"{request.objective.name} {_milliseconds(best)}. Without --rate, the highest rate is searched."
        )
    return (
        f"No rate was confirmed within {request.objective}, although {request.objective.name} is "
        f"{_milliseconds(alone.latency_ms)} with one request at a time: the machine is too busy, or the time too "
        "short. Repeat it on a quiet machine, or with more --minutes."
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
    if result.noise > MAX_NOISE:
        found.append(f"Other programs took {result.noise:.0%} of the CPUs meanwhile; repeat it on a quiet machine.")
    held = sum(window.holds for window in result.windows)
    if held < len(result.windows):
        found.append(f"{held} of {len(result.windows)} windows at this rate held the latency.")
    found += [f"{reason}" for reason in result.failed]
    return found


def rows(result: Result) -> list[tuple[str, ...]]:
    """Return a row of cells for each candidate, in the columns of `HEAD`."""
    return [_row(trial) for trial in result.trials]


def _row(trial: Trial) -> tuple[str, ...]:
    best = trial.best
    latency, cpu = (_number(best.latency_ms), f"{best.cpu_ms:.2f}") if best else ("", "")
    held = _number(trial.held) if best else "none"
    return _number(trial.prediction.rate), held, latency, cpu, trial.prediction.bound, str(trial.prediction.candidate)


def settings_file(result: Result, version: str) -> str:
    """Return the settings as a file for `docker run --env-file`. Comments are in lines of their own."""
    request, confirmed = result.request, result.confirmed
    origin = (
        f"swin-serve {version} tune: {result.bundle}, {request.objective}, {len(request.samples.images)} images, "
        f"{result.costs.cpus:g} CPUs, {result.costs.engines[None].device}."
    )
    lines = [*_comment(origin), *_comment(sentence(result))]
    values = result.candidate.values
    gains = {gain.name: gain for gain in result.simplified.gains} if result.simplified else {}
    for name, value in values.items():
        text = _gain(gains[name], value, result) if name in gains else _bound_text(result)
        lines += ["", *_comment(text), f"{variable(name)}={value}"]
    if not values and confirmed is not None:
        lines += ["#", "# No setting differs from its default."]
    return "\n".join(lines) + "\n"


def _bound_text(result: Result) -> str:
    return (
        f"So many images wait at most {result.request.objective.milliseconds:g} ms, or as long as the largest request "
        "of POST /classify/batch. Beyond the rate above, requests are refused early instead of answered late."
    )


def _gain(gain: Gain, value: Value, result: Result) -> str:
    """Return what a setting gains, as it was measured."""
    if gain.with_it is None or gain.without_it is None:
        return "Its gain could not be measured: the time was too short, or other programs disturbed it."
    objective = result.request.objective
    rate = per_second(result.confirmed.rate) if result.confirmed else ""
    text = (
        f"With {value} instead of the default, {objective.name} was {_number(gain.with_it.latency_ms)} ms instead of "
        f"{_milliseconds(gain.without_it.latency_ms)} at {rate}"
    )
    if result.request.rate is None:
        return f"{text}."
    return (
        f"{text}, and a request took {gain.with_it.cpu_ms:.2f} instead of {gain.without_it.cpu_ms:.2f} ms of CPU time."
    )


def _latencies_of(windows: Sequence[Measurement]) -> str:
    """Return the range of a percentile. It is infinite in a window in which too many requests have no answer."""
    finite = [window.latency_ms for window in windows if math.isfinite(window.latency_ms)]
    if not finite:
        return _milliseconds(math.inf)
    return f"{_range(finite)} ms{'' if len(finite) == len(windows) else ' or more'}"


def _milliseconds(latency: float) -> str:
    return f"{_number(latency)} ms" if math.isfinite(latency) else "endless, because too many requests had no answer"


def _comment(text: str) -> list[str]:
    """Return the text as comment lines."""
    lines, line = list[str](), ""
    for word in text.split():
        if line and len(line) + len(word) + 1 > COMMENT_COLUMNS:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return [f"# {each}" for each in (*lines, line)]


def record(result: Result, version: str) -> str:
    """Return the whole result as one line of JSON. A number that does not exist is null."""
    request, confirmed = result.request, result.confirmed
    found: dict[str, Any] = {
        "version": version,
        "bundle": result.bundle,
        "device": result.costs.engines[None].device,
        "cpus": result.costs.cpus,
        "images": len(request.samples.images),
        "objective": {"percentile": request.objective.percentile, "milliseconds": request.objective.milliseconds},
        "wanted_rate": request.rate,
        "answer": sentence(result),
        "remarks": remarks(result),
        "settings": dict(result.candidate.values),
        "requests_per_second": confirmed.rate if confirmed else None,
        "defaults_are_as_good": confirmed is not None and result.candidate == DEFAULTS,
        "windows": [asdict(window) for window in result.windows],
        "gains": [asdict(gain) for gain in result.simplified.gains] if result.simplified else [],
        "removed": result.simplified.removed if result.simplified else [],
        "candidates": [_trial_record(trial) for trial in result.trials],
        "bound_setting": BOUND if BOUND in result.candidate.values else None,
        "noise": result.noise,
        "seconds": result.seconds,
    }
    return json.dumps(_finite(found))


def _trial_record(trial: Trial) -> dict[str, Any]:
    return {
        "settings": dict(trial.prediction.candidate.values),
        "predicted_requests_per_second": trial.prediction.rate,
        "bound_by": trial.prediction.bound,
        "requests_per_second": trial.held,
        "alone": asdict(trial.alone),
        "windows": [asdict(window) for window in trial.windows],
    }


def _finite(value: Any) -> Any:
    """Replace infinite numbers and NaN, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def per_second(rate: float) -> str:
    """Return a rate in words."""
    return f"{_number(rate)} requests/s"


def _range(values: Sequence[float]) -> str:
    low, high = _number(min(values)), _number(max(values))
    return low if low == high else f"{low} to {high}"


def _number(value: float) -> str:
    """Return a number with three digits, or all digits before the point."""
    if value >= 100:  # noqa: PLR2004 (three digits)
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004 (likewise)
