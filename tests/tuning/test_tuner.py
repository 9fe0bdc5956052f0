"""The run after the costs, with simulated services."""

import asyncio
from dataclasses import replace

import pytest

from app.tuning.candidate import DEFAULTS, candidate_of
from app.tuning.run import Run
from app.tuning.schedule import SIMPLIFICATION_END
from app.tuning.tuner import Result, find_answer
from tests.tuning.fakes import simulation, trial
from tests.tuning.test_answer import result

FAST, NEAR, SLOW, *OTHERS = (candidate_of({"max_batch": size}) for size in (1, 2, 4, 8, 16, 32))
CAPACITIES = {DEFAULTS: 500.0, SLOW: 200.0, NEAR: 950.0, **dict.fromkeys(OTHERS, 400.0), FAST: 1000.0}


def answer_of(run: Run, rate: float | None = None) -> Result:
    """Return the result of a run that has measured the costs, and started the defaults."""
    found = result(rate=rate)
    found.confirmed = found.simplified = None
    defaults, *candidates = (trial(candidate, 1500) for candidate in CAPACITIES)

    async def work() -> None:
        await run.start(DEFAULTS)
        await find_answer(found, defaults, [each.prediction for each in candidates], run)

    asyncio.run(work())
    return found


@pytest.mark.parametrize("rate", [None, 800.0])
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 100])
def test_the_answer_is_the_same_if_few_services_run_at_once(limit: int, rate: float | None) -> None:
    """Seven candidates start in 8 seconds each, and the best one is the last. Six minutes are enough for any limit."""
    costs = {candidate: 1000 / capacity for candidate, capacity in CAPACITIES.items()}
    run, _ = simulation(CAPACITIES, 360, costs, limit=limit, start_seconds=8)

    found = answer_of(run, rate)

    assert found.candidate == FAST
    assert found.confirmed is not None
    assert found.confirmed.rate == rate or 900 <= found.confirmed.rate <= 1000
    assert run.schedule.elapsed <= SIMPLIFICATION_END * run.schedule.seconds


@pytest.mark.parametrize("rate", [None, 800.0])
def test_the_next_best_wins_if_the_service_of_the_best_ends(rate: float | None) -> None:
    """It ends in the confirmation, which the next one holds, and the defaults do not."""
    run, services = simulation(CAPACITIES, cpu_ms={FAST: 0.5, NEAR: 0.7})
    reports = list[str]()
    run = replace(run, report=reports.append)
    services[FAST].lifetime = 4 if rate else 6  # windows of the trials

    found = answer_of(run, rate)

    assert [line for line in reports if f" {FAST}," in line][-1].startswith("confirmation")
    assert run.failed == {FAST: "killed"}
    assert found.candidate == NEAR
