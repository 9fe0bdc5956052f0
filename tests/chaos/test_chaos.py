"""A short attack by `tests/chaos/attack.py`. `make chaos` takes its time."""

import pytest
import uvloop

from tests.chaos.attack import Report, attack
from tests.chaos.scenarios import BEHAVIOURS

FAILURES = ["raise", "rows", "nan", "hang 60"]
CROSSINGS = 6
"""One alone can go unnoticed: its callers may have left, or have sent the same image."""


@pytest.fixture(scope="module")
def report() -> Report:
    """Attack for six seconds or more, after three of warm-up."""
    return uvloop.run(attack(seconds=6, warm_up=3, seed=1, failures=FAILURES))


def test_nobody_can_break_the_service(report: Report) -> None:
    """Every request has its own answer or one clear error, every account is right, and all is as before."""
    assert report.violations == []


def test_everybody_was_there(report: Report) -> None:
    """No behavior is so rare that it does not take part, and the engine fails in every way."""
    absent = [behavior.name for behavior in BEHAVIOURS if not report.outcomes[behavior.name]]

    assert absent == []
    assert report.injected.keys() == {failure.split()[0] for failure in FAILURES}


def test_crossed_answers_are_found() -> None:
    """An engine that gives each row its neighbor's answer is the one failure that only the callers can notice."""
    report = uvloop.run(attack(seconds=0, warm_up=0, seed=1, failures=["cross"] * CROSSINGS))

    assert any("another's answer" in violation for violation in report.violations)
