"""The settings of the answer as a file of environment variables, with their gains as comments. Measures nothing."""

from app.settings import SECRETS, Settings
from app.tuning.answer import milliseconds, number, per_second, sentence
from app.tuning.candidate import Value, variable
from app.tuning.confirmation import Gain
from app.tuning.service_process import variables_of
from app.tuning.tuner import Result

# Characters of a comment line.
COMMENT_COLUMNS = 110

# Settings of the user that differ between the machines of tuning and of production, or are secret.
NOT_REPEATED = frozenset({"bundle", *SECRETS})


def settings_file(result: Result, version: str) -> str:
    """Return the settings as a file for `docker run --env-file`. Comments are in lines of their own."""
    request, confirmed = result.request, result.confirmed
    origin = (
        f"swin-serve {version} tune: {result.bundle}, {request.objective}, {len(request.samples.images)} images, "
        f"{result.costs.cpus:g} CPUs, {result.costs.engines[None].device}."
    )
    lines = [*_comment(origin), *_comment(sentence(result))]
    if given := _given(request.settings):
        lines += _comment(f"Measured with these settings, which have to be given, too: {given}")
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
        f"With {value} instead of the default, {objective.name} was {number(gain.with_it.latency_ms)} ms instead of "
        f"{milliseconds(gain.without_it.latency_ms)} at {rate}"
    )
    if result.request.rate is None or not gain.without_it.holds:
        return f"{text}."
    return (
        f"{text}, and a request took {gain.with_it.cpu_ms:.2f} instead of {gain.without_it.cpu_ms:.2f} ms of CPU time."
    )


def _given(settings: Settings) -> str:
    """Return the settings of the user as variables, without secrets."""
    kept = settings.model_fields_set - NOT_REPEATED
    shown = {variable(name) for name in kept}
    return " ".join(f"{name}={value}" for name, value in sorted(variables_of(settings).items()) if name in shown)


def _comment(text: str) -> list[str]:
    """Return the text as comment lines."""
    lines, line = list[str](), ""
    for word in text.split():
        if line and len(line) + len(word) + 1 > COMMENT_COLUMNS:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return [f"# {each}" for each in (*lines, line)]
