"""The report of a run as one HTML page: latency by rate of all candidates, and what bounds them. Needs matplotlib."""

from collections.abc import Mapping

from app.load.figures import Table, milliseconds
from app.load.picture import Point, Series, draw
from app.load.report import report
from app.tuning import answer
from app.tuning.trials import Trial
from app.tuning.tuner import Result


def html(result: Result, facts: Mapping[str, str]) -> str:
    """Return the page. `facts` are the machine and the versions."""
    objective, confirmed = result.request.objective, result.confirmed
    series = [_series(trial) for trial in result.trials]
    title = f"{result.bundle} within {objective}"
    svg = draw(title, series, objective.milliseconds, objective.percentile).svg()
    tables = [Table("candidates", answer.HEAD, answer.rows(result), texts=(4, 5)), _costs(result)]
    if confirmed:
        tables.insert(1, _confirmation(result))
    own = {
        "Settings": str(result.candidate),
        "Images": f"{len(result.request.samples.images)} of {result.request.samples.found} files",
        "CPUs": f"{result.costs.cpus:g}; other programs took {result.noise:.0%} of them",
        "Network": f"{result.costs.engines[None].device}",
        "Time": f"{result.seconds:,.0f} s",
    }
    return report(title, svg, tables, [answer.sentence(result), *answer.remarks(result)], own | dict(facts))


def _series(trial: Trial) -> Series:
    windows = sorted(trial.windows, key=lambda window: window.rate)
    points = [
        Point(window.rate, window.p50_ms, window.latency_ms, is_overloaded=window.refused + window.lost > 0)
        for window in windows
    ]
    return Series(str(trial.candidate), points)


def _confirmation(result: Result) -> Table:
    """Return the windows of the answer and of the defaults at the rate of the answer."""
    confirmed, objective = result.confirmed, result.request.objective
    assert confirmed is not None  # noqa: S101 (the caller has looked)
    windows = [(str(result.candidate), window) for window in result.windows]
    if confirmed.defaults is not confirmed.windows:
        windows += [("defaults", window) for window in confirmed.defaults]
    rows = [
        (
            name,
            f"{window.requests:,}",
            milliseconds(window.p50_ms),
            milliseconds(window.latency_ms),
            f"{window.share_in_time:.1%}",
            f"{window.cpu_ms:.2f}",
        )
        for name, window in windows
    ]
    head = ("settings", "requests", "p50 ms", f"{objective.name} ms", "in time", "CPU ms")
    return Table(f"confirmation at {answer.per_second(confirmed.rate)}", head, rows, texts=(0,))


def _costs(result: Result) -> Table:
    """Return the costs that were measured alone."""
    rows = [
        (f"batch of {size}, {costs.threads} threads", milliseconds(cost.seconds * 1e3), f"{cost.cpu_seconds * 1e3:.2f}")
        for costs in result.costs.engines.values()
        for size, cost in costs.batches.items()
    ]
    rows += [
        (f"decoding, {mode}", milliseconds(costs.image.seconds * 1e3), f"{costs.image.cpu_seconds * 1e3:.2f}")
        for mode, costs in result.costs.decode.items()
    ]
    return Table("costs, measured alone", ("cost", "ms", "CPU ms"), rows, texts=(0,))
