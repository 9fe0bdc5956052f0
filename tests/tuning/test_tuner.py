"""The run after the costs, with simulated services."""

import asyncio
from dataclasses import replace

import pytest

from app.tuning.candidate import DEFAULTS, candidate_of
from app.tuning.tuner import Result, find_answer
from tests.tuning.fakes import simulation, trial
from tests.tuning.test_answer import result

FAST, NEAR, SLOW = (candidate_of({"max_batch": size}) for size in (1, 2, 4))
CAPACITIES = {DEFAULTS: 500.0, FAST: 1000.0, NEAR: 950.0, SLOW: 200.0}


def unmeasured(rate: float | None) -> Result:
    """Return the result of a run that has started its candidates."""
    found = result(rate=rate)
    found.trials = [trial(candidate, 1500) for candidate in CAPACITIES]
    found.confirmed = found.simplified = None
    return found


@pytest.mark.parametrize("rate", [None, 800.0])
def test_the_next_best_wins_if_the_service_of_the_best_ends(rate: float | None) -> None:
    """It ends in the confirmation, which the next one holds, and the defaults do not."""
    run, services = simulation(CAPACITIES, cpu_ms={FAST: 0.5, NEAR: 0.7})
    found, reports = unmeasured(rate), list[str]()
    run = replace(run, report=reports.append)
    services[FAST].lifetime = 4 if rate else 6  # windows of the trials

    asyncio.run(find_answer(found, run))

    assert [line for line in reports if f" {FAST}," in line][-1].startswith("confirmation")
    assert run.failed == {FAST: "killed"}
    assert found.candidate == NEAR
