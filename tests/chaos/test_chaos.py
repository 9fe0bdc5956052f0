"""A short run of `tests/chaos/attack.py`; `make chaos` runs it for minutes."""

import pytest
import uvloop

from tests.chaos.attack import Report, attack
from tests.chaos.outcomes import WRONG_RESPONSE
from tests.chaos.scenarios import SCENARIOS

FAILURES = ["raise", "rows", "nan", "hang 60"]
# One swapped batch can go unnoticed: its clients may have disconnected, or have sent the same
# image.
SWAPS = 6


@pytest.fixture(scope="module")
def report() -> Report:
    """Attack for at least 6 s, after 3 s of warm-up."""
    return uvloop.run(attack(seconds=6, warm_up=3, seed=1, failures=FAILURES))


def test_the_service_survives_the_attack(report: Report) -> None:
    """Every request gets its response or one error, is counted once, and leaves nothing."""
    assert report.violations == []


def test_every_scenario_and_failure_takes_part(report: Report) -> None:
    """Every scenario runs at least once, and every failure is injected."""
    absent = [scenario.name for scenario in SCENARIOS if not report.outcomes[scenario.name]]

    assert absent == []
    assert report.injected.keys() == {failure.split()[0] for failure in FAILURES}


def test_swapped_responses_are_found() -> None:
    """An engine that swaps outputs within a batch is a failure that only clients can notice."""
    report = uvloop.run(attack(seconds=0, warm_up=0, seed=1, failures=["cross"] * SWAPS))

    assert any(WRONG_RESPONSE in violation for violation in report.violations)
