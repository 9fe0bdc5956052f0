"""Objectives: their grammar, and the requests that count as late."""

import math

import numpy as np
import pytest

from app.errors import StartError
from app.load.windows import Counts, Window
from app.tuning.objective import Objective, parse_objective, percentile_ms


def window(latencies_ms: list[float], refused: int = 0) -> Window:
    latencies = np.array(latencies_ms) / 1e3
    counts = Counts(len(latencies), refused, 0, 0)
    return Window(100, None, 100, counts, sum(counts), len(latencies), {}, 0, 0, {}, latencies)


@pytest.mark.parametrize(
    ("text", "percentile", "seconds"),
    [("p99=50ms", 99, 0.05), ("p95=200ms", 95, 0.2), ("p50=0.5s", 50, 0.5), ("p99.9=1s", 99.9, 1)],
)
def test_an_objective_is_a_percentile_and_a_latency(text: str, percentile: float, seconds: float) -> None:
    """Milliseconds and seconds are units, and both numbers can have decimals."""
    objective = parse_objective(text)

    assert objective.percentile == percentile
    assert objective.seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "50ms",
        "p99",
        "p99=50",
        "p99<50ms",
        "p99=-1ms",
        "p100=1s",
        "p0=1s",
        "p99=0ms",
        "p99=1e3ms",
        "p99=9999s",
        "p99.999=1s",
    ],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    """The sentence repeats the value, and says what to give."""
    with pytest.raises(StartError, match="as p99=50ms") as refused:
        parse_objective(text)

    assert repr(text) in str(refused.value)


def test_a_window_holds_if_enough_requests_are_in_time() -> None:
    """One late request of 100 is allowed at p99; two are not."""
    objective = Objective(99, 0.01)

    assert objective.is_met_by(window([5.0] * 99 + [50.0]))
    assert not objective.is_met_by(window([5.0] * 98 + [50.0] * 2))


@pytest.mark.parametrize("requests", [1000, 2000, 10000])
def test_a_percentage_with_decimals_is_exact(requests: int) -> None:
    """99.9 % of 1,000 requests are 999, although 99.9 is no binary fraction."""
    objective = Objective(99.9, 0.01)

    assert objective.is_met(requests - requests // 1000, requests)
    assert not objective.is_met(requests - requests // 1000 - 1, requests)
    assert percentile_ms(window([5.0] * (requests - 1) + [50.0]), 99.9) == pytest.approx(5.0)


def test_refused_requests_are_late() -> None:
    """A service that refuses the rest does not hold the rate, and its percentile is infinite."""
    refusing = window([5.0] * 97, refused=3)

    assert not Objective(99, 0.01).is_met_by(refusing)
    assert Objective(99, 0.01).latency_ms(refusing) == math.inf
    assert Objective(90, 0.01).latency_ms(refusing) == pytest.approx(5.0)


def test_a_window_without_an_answer_does_not_hold() -> None:
    """No request at all proves nothing."""
    assert not Objective(50, 1).is_met_by(window([]))
    assert math.isnan(Objective(50, 1).latency_ms(window([])))
