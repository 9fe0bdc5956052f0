"""The trials, with simulated services and a clock that only they move."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from app.tuning.candidate import Candidate, candidate_of
from app.tuning.run import Run
from app.tuning.schedule import CONFIRMATION_END, TRIALS_END
from app.tuning.service_process import ServiceEnded
from app.tuning.trials import WINDOWS, Trial, find_highest_rates, measure_at
from tests.tuning.fakes import simulation, trial

DEFAULTS = Candidate()
FAST, NEAR, SLOW = (candidate_of({"max_batch": size}) for size in (1, 2, 4))
Measure = Callable[[Sequence[Trial], Run], Coroutine[Any, Any, None]]
CAPACITIES = {DEFAULTS: 700.0, FAST: 1000.0, NEAR: 950.0, SLOW: 200.0}


def test_the_highest_rate_of_the_best_is_found() -> None:
    """Its rate is within a tenth, although the prediction was half too high, and above those of the others."""
    run, _ = simulation(CAPACITIES)
    trials = [trial(candidate, 1500) for candidate in CAPACITIES]

    asyncio.run(find_highest_rates(trials, run))

    found = {each.candidate: each.held for each in trials}
    assert 900 <= found[FAST] <= 1000
    assert max(found, key=lambda candidate: found[candidate]) == FAST


def test_windows_of_candidates_are_interleaved() -> None:
    """A disturbance of some seconds hits all candidates, not all windows of one."""
    run, services = simulation(CAPACITIES)
    order = list[str]()
    run = type(run)(run.fleet, run.schedule, order.append)

    asyncio.run(find_highest_rates([trial(candidate, 1500) for candidate in CAPACITIES], run))

    assert len({line.partition(",")[0] for line in order[: len(services)]}) == len(services)


def test_a_candidate_that_is_behind_gets_no_second_round() -> None:
    """Its upper bound is below the best rate, so more windows could not change the answer."""
    run, services = simulation(CAPACITIES)
    trials = [trial(candidate, 1500) for candidate in CAPACITIES]

    asyncio.run(find_highest_rates(trials, run))

    assert len(services[SLOW].windows) <= WINDOWS
    assert [each.candidate for each in trials if each.is_dropped].count(SLOW) == 1
    assert not trials[1].is_dropped


def test_a_candidate_that_is_late_alone_is_not_loaded() -> None:
    """If half of the requests of a single client are late, no rate can hold."""
    run, services = simulation(CAPACITIES)
    hopeless = trial(SLOW, 1500, share_in_time=0.0)

    asyncio.run(find_highest_rates([trial(FAST, 1500), hopeless], run))

    assert services[SLOW].windows == []
    assert services[FAST].windows


def test_the_proof_ends_in_time() -> None:
    """Starts, windows and all that is around them end with the phase, at any length of the run."""
    for seconds in (20, 60, 600):
        run, _ = simulation(CAPACITIES, seconds)

        asyncio.run(find_highest_rates([trial(candidate, 1500) for candidate in CAPACITIES], run))

        starts = 2.0 * len(CAPACITIES)
        assert run.schedule.elapsed <= TRIALS_END * seconds + starts


def test_the_search_goes_on_until_a_rate_holds() -> None:
    """The prediction is ten times too high. Without a rate there is nothing to confirm, so the time is free."""
    run, _ = simulation({FAST: 1000}, 60)
    only = trial(FAST, 10_000)

    asyncio.run(find_highest_rates([only], run))

    assert only.held > 0
    assert TRIALS_END * 60 < run.schedule.elapsed <= CONFIRMATION_END * 60


@pytest.mark.parametrize(("disturbed", "again"), [(1, 0.0), (2, 0.3)])
def test_a_disturbed_window_is_measured_again(disturbed: int, again: float) -> None:
    """It is measured once more, and then its result counts."""
    run, services = simulation(CAPACITIES)
    services[FAST].disturbed = disturbed

    window = asyncio.run(run.window("trial", FAST, 500, 1))

    assert window is not None
    assert window.noise == again
    assert [(entry.window.noise, entry.is_repeated) for entry in run.history] == [(0.3, True), (again, False)]


def test_a_disturbed_window_counts_if_there_is_no_time() -> None:
    """Another one would end after the end of the run."""
    run, services = simulation(CAPACITIES, 6)
    services[FAST].disturbed = 2

    window = asyncio.run(run.window("trial", FAST, 500, 2))

    assert window is not None
    assert not window.holds
    assert len(services[FAST].windows) == 1


def test_a_given_rate_keeps_those_that_hold_it() -> None:
    """All windows are at this rate, and a candidate that fails one of the first round is dropped."""
    run, services = simulation(CAPACITIES)
    trials = [trial(candidate, 1500) for candidate in CAPACITIES]

    asyncio.run(measure_at(800, trials, run))

    assert {rate for service in services.values() for rate, _ in service.windows} == {800}
    assert {each.candidate for each in trials if each.holds_always} == {FAST, NEAR}
    assert len(services[SLOW].windows) < len(services[FAST].windows)


def test_dropped_candidates_leave_their_time_to_the_others() -> None:
    """The windows of the second round are longer, and the phase is used."""
    run, services = simulation({FAST: 10_000, SLOW: 10, NEAR: 10}, 120)

    asyncio.run(measure_at(5000, [trial(candidate, 10_000) for candidate in (FAST, SLOW, NEAR)], run))

    first, *_, last = (seconds for _, seconds in services[FAST].windows)
    assert last > 1.4 * first


async def measured_at_800(trials: Sequence[Trial], run: Run) -> None:
    await measure_at(800, trials, run)


@pytest.mark.parametrize("measure", [find_highest_rates, measured_at_800])
def test_a_candidate_whose_service_ends_is_dropped(measure: Measure) -> None:
    """The others go on, and the reason is kept."""
    run, services = simulation(CAPACITIES)
    services[FAST].lifetime = 1
    trials = [trial(candidate, 1000) for candidate in CAPACITIES]

    asyncio.run(measure(trials, run))

    assert run.failed == {FAST: "killed"}
    assert [each.candidate for each in trials if not each.is_dropped][-1] == NEAR
    assert len(services[NEAR].windows) > 1


def test_a_search_ends_if_all_services_end() -> None:
    """There is time for more windows, and no candidate for them."""
    run, services = simulation({FAST: 1000, NEAR: 950}, seconds=1e6)
    for service in services.values():
        service.lifetime = 1

    asyncio.run(find_highest_rates([trial(FAST, 9000), trial(NEAR, 9000)], run))

    assert set(run.failed) == {FAST, NEAR}


@pytest.mark.parametrize("measure", [find_highest_rates, measured_at_800])
def test_without_the_defaults_there_is_no_answer(measure: Measure) -> None:
    """If their service ends, the settings of the user or the machine are at fault."""
    run, services = simulation(CAPACITIES)
    services[DEFAULTS].lifetime = 1

    with pytest.raises(ServiceEnded, match="killed"):
        asyncio.run(measure([trial(candidate, 1000) for candidate in CAPACITIES], run))
