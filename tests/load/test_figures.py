"""Figures of a sweep: tables, JSON, and sentences on how far to trust them."""

import json
import os

import pytest

from app.load.figures import NOTHING, as_json, doubts, faults, milliseconds, size, tables
from app.load.other_work import MAX_OTHER_CORES
from app.load.sweep import Measured, Plan, Sweep
from app.load.windows import Window
from tests.support.windows import window

PLAN = Plan((1, 8), (100.0,), 5.0, 1.0, 0)


def sweep(*windows: Window, plan: Plan = PLAN, other_cores: float | None = None) -> Sweep:
    measured = [Measured(each, other_cores) for each in windows]
    closed = [each for each in measured if each.window.clients is not None]
    return Sweep(plan, closed, [each for each in measured if each.window.clients is None])


def test_each_kind_of_loop_has_a_table() -> None:
    """A row has clients or arrivals, the rate, latencies and outcomes."""
    closed, opened = tables(sweep(window(clients=8), window(rate=1234.5, counts=(50, 4, 3, 2))))

    outcomes = ["ok", "refused", "failed", "lost"]
    assert closed.head == ["clients", "requests/s", "p50 ms", "p90 ms", "p99 ms", "max ms", *outcomes]
    assert closed.rows == [["8", "200.0", "5.00", "9.00", "9.90", "20.0", "1,000", "0", "0", "0"]]
    assert opened.head[0] == "arrivals/s"
    assert opened.rows == [["1,234.5", "10.0", "5.00", "9.00", "9.90", "20.0", "50", "4", "3", "2"]]


def test_a_loop_that_was_not_measured_has_no_table() -> None:
    """Only the loops with windows are shown."""
    (table,) = tables(sweep(window(rate=10.0)))

    assert table.head[0] == "arrivals/s"


def test_a_value_that_does_not_exist_is_a_dash_or_null() -> None:
    """Without a good response there is no latency: a dash in the table, null in JSON."""
    refused = window(rate=10.0, counts=(0, 50, 0, 0))

    (table,) = tables(sweep(refused))
    assert table.rows[0][2:6] == [NOTHING] * 4
    figures = json.loads(json.dumps(as_json(Measured(refused)), allow_nan=False))
    assert figures["p99_ms"] is None
    assert figures["other_cores"] is None
    assert figures["refused"] == 50


def test_json_has_the_lateness_of_open_loops_only() -> None:
    """A client of a closed loop is never late."""
    assert as_json(Measured(window(rate=10.0, late_ms=0.25)))["late_ms"] == 0.25
    assert "late_ms" not in as_json(Measured(window(clients=1)))


@pytest.mark.parametrize(("late_ms", "is_said"), [(0.9, False), (1.9, False), (2.1, True)])
def test_a_late_generator_is_said(late_ms: float, is_said: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    """Lateness matters above 1 ms, and above a tenth of the median of 20 ms."""
    found = doubts(sweep(window(rate=10.0, median_ms=20, late_ms=late_ms)))

    assert [("another machine" in sentence) for sentence in found] == ([True] if is_said else [])


def test_other_work_is_said() -> None:
    """The cores that other processes used are named, if they are more than a twentieth of the machine."""
    assert not doubts(sweep(window(clients=1), other_cores=MAX_OTHER_CORES))
    (sentence,) = doubts(sweep(window(clients=1), other_cores=MAX_OTHER_CORES + 1))
    assert f"{MAX_OTHER_CORES + 1:.2f} of the {os.cpu_count()} cores" in sentence


def test_few_responses_are_said() -> None:
    """A 99th percentile of fewer than 100 responses is in doubt, and a window without any is named."""
    (few,) = doubts(sweep(window(rate=1.0, counts=(99, 0, 0, 0))))
    (empty,) = doubts(sweep(window(clients=1, counts=(0, 0, 0, 0)), plan=Plan((1,), (1.0,), 5, 1, 0)))

    assert few == "In 1 window, p99 rests on fewer than 100 responses: raise --seconds."
    assert empty == "In 1 window, no request ended before the end: raise --seconds."


def test_a_closed_loop_without_answers_has_no_open_loop() -> None:
    """The missing table is explained, unless the rates are given."""
    refused = window(clients=1, counts=(0, 9, 0, 0))

    assert "give --rates" in doubts(sweep(refused, plan=Plan((1,), None, 5, 1, 0)))[0]
    assert not doubts(sweep(refused))


def test_faults_name_statuses_and_losses() -> None:
    """Failed responses are counted by status over all windows. Refused requests are no fault."""
    first = window(clients=1, counts=(9, 7, 3, 0), failures={500: 2, 415: 1})
    second = window(rate=10.0, counts=(9, 0, 1, 2), failures={500: 1})

    failed, lost = faults(sweep(first, second))

    assert failed == "4 responses failed, by status: 415 (1), 500 (3)"
    assert lost.startswith("2 requests had no response: ")
    assert not faults(sweep(window(clients=1, counts=(9, 7, 0, 0))))


def test_a_service_that_does_not_keep_up_is_said() -> None:
    """Above the capacity, latencies say how long the window was. A few requests in flight at the end are normal."""
    (sentence,) = doubts(sweep(window(rate=200.0, counts=(1000, 0, 0, 0), ended=890)))

    assert sentence.startswith("In 1 window, requests arrived faster than they were answered")
    assert not doubts(sweep(window(rate=200.0, counts=(1000, 0, 0, 0), ended=900)))
    assert not doubts(sweep(window(clients=1000, counts=(1000, 0, 0, 0), ended=500)))


def test_closed_loops_that_are_too_short_are_a_fault() -> None:
    """If no request ends within a closed loop, nothing is measured, although each is answered later."""
    slow = window(clients=8, counts=(8, 0, 0, 0), ended=0)

    assert "no request ended within a closed loop: raise --seconds" in faults(sweep(slow))
    assert not faults(sweep(slow, window(clients=1)))


def test_a_service_that_ceased_to_answer_is_a_fault() -> None:
    """The sentence says how many windows there are."""
    broken = sweep(window(clients=1), window(clients=8, counts=(0, 0, 0, 5)))
    broken.is_silent = True

    assert faults(broken)[-1] == "the service gives no answer any more: 2 of 3 windows are measured"


@pytest.mark.parametrize(("value", "text"), [(0.123, "0.12"), (12.34, "12.3"), (123.4, "123"), (12345.0, "12,345")])
def test_times_have_about_three_digits(value: float, text: str) -> None:
    """Digits that the next run would change are not shown."""
    assert milliseconds(value) == text


@pytest.mark.parametrize(("count", "text"), [(999, "999 bytes"), (1700, "1.7 kB"), (2_500_000, "2.5 MB")])
def test_sizes_have_units(count: int, text: str) -> None:
    """Large sizes are in larger units."""
    assert size(count) == text
