"""Groups of candidates, with simulated services of which few run at once."""

import asyncio

import pytest

from app.tuning.candidate import DEFAULTS, Candidate, candidate_of
from app.tuning.groups import try_all
from app.tuning.run import Run
from app.tuning.schedule import TRIALS_END
from app.tuning.trials import Trial
from tests.tuning.fakes import SimulatedFleet, simulation, trial

FAST, NEAR, SLOW, LAST = (candidate_of({"max_batch": size}) for size in (1, 2, 4, 8))
CAPACITIES = {DEFAULTS: 700.0, FAST: 1000.0, NEAR: 950.0, SLOW: 200.0, LAST: 900.0}


def tried(run: Run, rate: float | None = None) -> list[Trial]:
    """Return the trials of all candidates, after the start of the defaults."""
    defaults, *candidates = (trial(candidate, 1500) for candidate in CAPACITIES)

    async def work() -> list[Trial]:
        await run.start(DEFAULTS)
        return await try_all(defaults, [each.prediction for each in candidates], rate, run)

    return asyncio.run(work())


def starts(run: Run) -> list[Candidate]:
    assert isinstance(run.fleet, SimulatedFleet)
    return run.fleet.started


@pytest.mark.parametrize("rate", [None, 600.0])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_each_service_starts_once(limit: int, rate: float | None) -> None:
    """A group is measured before the next one takes its place, and each candidate gets windows."""
    run, _ = simulation(CAPACITIES, 240, limit=limit)

    trials = tried(run, rate)

    assert starts(run) == [each.candidate for each in trials] == [*CAPACITIES]
    assert all(each.windows for each in trials)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_all_groups_end_in_time(limit: int) -> None:
    """The starts of later groups are planned before the windows of the first one."""
    run, services = simulation(CAPACITIES, 120, limit=limit, start_seconds=6)

    tried(run)

    assert run.schedule.elapsed <= TRIALS_END * 120
    assert services[LAST].windows


def test_a_candidate_that_is_behind_an_earlier_group_is_dropped() -> None:
    """It has no windows of a second round, although it is the only one of its group."""
    run, services = simulation(CAPACITIES, 240, limit=1)

    trials = tried(run)

    assert [each.candidate for each in trials if each.is_dropped] == [SLOW]
    assert len(services[SLOW].windows) < len(services[FAST].windows)


def test_no_candidate_starts_after_the_time_of_the_trials() -> None:
    """The last groups are left out, so that the confirmation has its time."""
    run, _ = simulation(CAPACITIES, 60, limit=2, start_seconds=12)

    trials = tried(run)

    assert starts(run) == [each.candidate for each in trials] == [*CAPACITIES][: len(trials)]
    assert len(trials) < len(CAPACITIES)


def test_a_candidate_that_does_not_start_leaves_its_place_to_the_next() -> None:
    """The candidate is out of the run, and has no trial."""
    run, services = simulation(CAPACITIES, 240, limit=2)
    services[FAST].starts = False

    trials = tried(run)

    assert [each.candidate for each in trials] == [DEFAULTS, NEAR, SLOW, LAST]
    assert run.failed == {FAST: "no memory"}
