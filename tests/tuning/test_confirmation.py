"""The confirmation and the removal of settings without gain, with simulated services."""

import asyncio

import pytest

from app.tuning.candidate import Candidate, candidate_of
from app.tuning.confirmation import WINDOWS, Attempt, Confirmation, Score, confirm, cpu_time, latency, simplify
from app.tuning.measurement import ENOUGH_REQUESTS
from tests.tuning.fakes import OBJECTIVE, measured, simulation

DEFAULTS = Candidate()
BOTH = candidate_of({"max_batch": 4, "http_workers": 1, "max_queue_size": 64})
BATCH, WORKERS = BOTH.without("http_workers"), BOTH.without("max_batch")


def at(candidate: Candidate, *rates: float) -> list[Attempt]:
    """Return attempts to confirm a candidate at these rates."""
    return [Attempt(candidate, rate) for rate in rates]


def test_a_winner_that_holds_more_than_the_defaults_is_confirmed() -> None:
    """At the confirmed rate, the defaults do not hold the latency."""
    run, services = simulation({BOTH: 1000, DEFAULTS: 500})

    found = asyncio.run(confirm(at(BOTH, 850, 700), OBJECTIVE, latency, run))

    assert found is not None
    assert (found.candidate, found.rate) == (BOTH, 850)
    assert len(services[BOTH].windows) == WINDOWS


def test_the_defaults_are_as_good_if_they_hold_the_rate() -> None:
    """A faster candidate is no reason for settings if the defaults hold the rate that is stated."""
    run, _ = simulation({BOTH: 1000, DEFAULTS: 900})

    found = asyncio.run(confirm(at(BOTH, 850), OBJECTIVE, latency, run))

    assert found is not None
    assert (found.candidate, found.rate) == (DEFAULTS, 850)


def test_a_rate_that_does_not_hold_again_is_not_stated() -> None:
    """The best window of the trials was luck, so the next lower rate is confirmed."""
    run, _ = simulation({BOTH: 750, DEFAULTS: 500})

    found = asyncio.run(confirm(at(BOTH, 850, 700), OBJECTIVE, latency, run))

    assert found is not None
    assert found.rate == 700


def test_windows_count_together() -> None:
    """A window slightly below the share of the objective is made up for by the other one."""
    run, services = simulation({BOTH: 1000, DEFAULTS: 500})
    services[BOTH].shares = [0.994, 0.987]

    found = asyncio.run(confirm(at(BOTH, 850, 700), OBJECTIVE, latency, run))

    assert found is not None
    assert (found.candidate, found.rate) == (BOTH, 850)


def test_windows_together_can_fail() -> None:
    """One good window does not make up for a bad one."""
    run, services = simulation({BOTH: 1000, DEFAULTS: 500})
    services[BOTH].shares = [0.994, 0.98]

    found = asyncio.run(confirm(at(BOTH, 850, 700), OBJECTIVE, latency, run))

    assert found is not None
    assert (found.candidate, found.rate) == (BOTH, 700)


def test_the_defaults_are_confirmed_if_only_they_hold_twice() -> None:
    """The second window of the winner fails, and the defaults, which held, are measured once more."""
    run, services = simulation({BOTH: 1000, DEFAULTS: 1000})
    services[BOTH].shares = [1.0, 0.5]

    found = asyncio.run(confirm(at(BOTH, 850, 700), OBJECTIVE, latency, run))

    assert found is not None
    assert (found.candidate, found.rate) == (DEFAULTS, 850)
    assert len(services[DEFAULTS].windows) == WINDOWS


def test_a_rate_that_the_winner_does_not_hold_takes_one_window() -> None:
    """The defaults are measured at the rate that the winner holds, and not before."""
    run, services = simulation({BOTH: 600, DEFAULTS: 500})

    found = asyncio.run(confirm(at(BOTH, 900, 800, 700, 580), OBJECTIVE, latency, run))

    assert found is not None
    assert (found.candidate, found.rate) == (BOTH, 580)
    assert [rate for rate, _ in services[BOTH].windows] == [900, 800, 700, 580, 580]
    assert [rate for rate, _ in services[DEFAULTS].windows] == [580, 580]


def test_the_second_best_of_the_trials_can_win() -> None:
    """The best one was lucky: it does not hold the rate of the other one."""
    run, services = simulation({BOTH: 600, WORKERS: 800, DEFAULTS: 500})

    found = asyncio.run(confirm([*at(BOTH, 900), *at(WORKERS, 780), *at(BOTH, 580)], OBJECTIVE, latency, run))

    assert found is not None
    assert (found.candidate, found.rate) == (WORKERS, 780)
    assert len(services[BOTH].windows) == 1


def test_time_is_left_after_rates_that_fail() -> None:
    """Each rate takes a part of the time that is left, so the last windows have enough requests, too."""
    run, services = simulation({BOTH: 250, DEFAULTS: 150}, seconds=180)

    found = asyncio.run(confirm(at(BOTH, 600, 550, 500, 450, 400, 350, 300, 240), OBJECTIVE, latency, run))

    assert found is not None
    assert (found.candidate, found.rate) == (BOTH, 240)
    assert all(rate * seconds >= ENOUGH_REQUESTS for rate, seconds in services[BOTH].windows)


def test_no_rate_is_stated_if_none_holds() -> None:
    """The answer is then that there is none."""
    run, _ = simulation({BOTH: 300, DEFAULTS: 200})

    assert asyncio.run(confirm(at(BOTH, 850, 700), OBJECTIVE, latency, run)) is None


def test_one_window_of_each_is_enough_if_the_time_ends() -> None:
    """The second ones have no time, and the first ones have held."""
    run, services = simulation({BOTH: 1000, DEFAULTS: 500}, seconds=8)

    found = asyncio.run(confirm(at(BOTH, 850), OBJECTIVE, latency, run))

    assert found is not None
    assert found.candidate == BOTH
    assert len(services[BOTH].windows) == 1


def test_the_defaults_can_win() -> None:
    """If they are the best of the trials, only they are measured."""
    run, services = simulation({BOTH: 300, DEFAULTS: 1000})

    found = asyncio.run(confirm(at(DEFAULTS, 850), OBJECTIVE, latency, run))

    assert found is not None
    assert found.candidate == DEFAULTS
    assert services[BOTH].windows == []


def test_a_winner_whose_service_ends_is_not_confirmed() -> None:
    """Neither are the defaults: another candidate can be better. The reason is kept."""
    run, services = simulation({BOTH: 1000, DEFAULTS: 1000})
    services[BOTH].lifetime = 1

    assert asyncio.run(confirm(at(BOTH, 850, 700), OBJECTIVE, latency, run)) is None
    assert run.failed == {BOTH: "killed"}


@pytest.mark.parametrize(("cpu_ms", "expected"), [(0.5, BOTH), (1.5, DEFAULTS)])
def test_at_a_given_rate_the_cheaper_one_is_confirmed(cpu_ms: float, expected: Candidate) -> None:
    """Both hold the rate, so the CPU time decides."""
    run, _ = simulation({BOTH: 1000, DEFAULTS: 1000}, cpu_ms={BOTH: cpu_ms, DEFAULTS: 1.0})

    found = asyncio.run(confirm(at(BOTH, 800), OBJECTIVE, cpu_time, run))

    assert found is not None
    assert found.candidate == expected


def test_at_a_given_rate_settings_count_if_the_defaults_do_not_hold_it() -> None:
    """They cost more CPU time, but the defaults are no alternative."""
    run, _ = simulation({BOTH: 1000, DEFAULTS: 500}, cpu_ms={BOTH: 1.5, DEFAULTS: 1.0})

    found = asyncio.run(confirm(at(BOTH, 800), OBJECTIVE, cpu_time, run))

    assert found is not None
    assert found.candidate == BOTH


def confirmed(candidate: Candidate, rate: float) -> Confirmation:
    """Return the confirmation of a candidate, with windows that differ by 2 ms."""
    windows = [measured(rate, latency_ms=8), measured(rate, latency_ms=10)]
    return Confirmation(candidate, rate, windows, [measured(rate, holds=False, latency_ms=90)])


def test_a_setting_without_a_gain_is_removed() -> None:
    """Without HTTP workers the rate holds, too; without small batches it does not."""
    run, _ = simulation({BOTH: 1000, BATCH: 1000, WORKERS: 500})

    found = asyncio.run(simplify(confirmed(BOTH, 850), OBJECTIVE, latency, run))

    assert found.candidate == BATCH
    assert [gain.name for gain in found.gains] == ["max_batch"]
    assert found.removed == ["http_workers"]


def test_a_gain_within_the_spread_is_none() -> None:
    """The windows took up to 10.2 ms. 9.4 ms without a setting is no loss; 11.3 ms is one, although the rate holds."""
    same, worse = 850 * 12 / 9.4, 850 * 12 / 11.3
    capacities = {BOTH: 1000, WORKERS: same, BATCH: worse, DEFAULTS: worse}
    run, _ = simulation(capacities)

    found = asyncio.run(simplify(confirmed(BOTH, 850), OBJECTIVE, latency, run))

    assert (found.removed, [gain.name for gain in found.gains]) == (["max_batch"], ["http_workers"])


def test_one_late_window_does_not_hide_a_gain() -> None:
    """At the edge of the latency, a window with a setting can fail by chance. All of them together hold."""
    run, services = simulation({BOTH: 1000, WORKERS: 300, BATCH: 1000})
    services[BOTH].shares = [0.985]

    found = asyncio.run(simplify(confirmed(BOTH, 850), OBJECTIVE, latency, run))

    assert [gain.name for gain in found.gains if gain.without_it] == ["max_batch"]


@pytest.mark.parametrize("score", [latency, cpu_time])
def test_a_setting_without_which_the_rate_fails_is_not_removed(score: Score) -> None:
    """One window with it fails by chance, and without it, requests are cheaper, and half of them late."""
    run, services = simulation({BOTH: 1000, WORKERS: 500, BATCH: 500}, cpu_ms={WORKERS: 0.5, BATCH: 0.5})
    services[BOTH].shares = [0.985, 0.995]
    before = Confirmation(BOTH, 850, [measured(850), measured(850, latency_ms=30)], [measured(850, holds=False)])

    found = asyncio.run(simplify(before, OBJECTIVE, score, run))

    assert (found.candidate, found.removed) == (BOTH, [])


def test_a_window_that_does_not_count_is_kept() -> None:
    """It says how often the rate failed."""
    run, services = simulation({BOTH: 1000, WORKERS: 500, BATCH: 500})
    services[BOTH].shares = [0.5, 0.995]

    found = asyncio.run(simplify(confirmed(BOTH, 850), OBJECTIVE, latency, run))

    assert [window.share_in_time for window in found.disturbed] == [0.5]
    assert [window.share_in_time for window in found.windows] == [0.995]


def test_settings_that_replace_each_other_are_not_both_removed() -> None:
    """Each alone suffices, so the first is removed, and the second is needed then."""
    run, _ = simulation({BOTH: 1000, BATCH: 1000, WORKERS: 1000, DEFAULTS: 500})

    found = asyncio.run(simplify(confirmed(BOTH, 850), OBJECTIVE, latency, run))

    assert (found.candidate, found.removed) == (WORKERS, ["max_batch"])


def test_a_disturbed_pair_claims_no_gain() -> None:
    """If the rate does not hold with a setting, it says nothing about the setting that it fails without it."""
    run, _ = simulation({BOTH: 800, BATCH: 500, WORKERS: 500})

    found = asyncio.run(simplify(confirmed(BOTH, 850), OBJECTIVE, latency, run))

    assert found.candidate == BOTH
    assert [gain.without_it for gain in found.gains] == [None, None]


def test_settings_stay_if_there_is_no_time_to_measure_them() -> None:
    """They won together. Their gain is not stated."""
    run, _ = simulation({BOTH: 1000}, seconds=1)

    found = asyncio.run(simplify(confirmed(BOTH, 850), OBJECTIVE, latency, run))

    assert found.candidate == BOTH
    assert [(gain.name, gain.with_it) for gain in found.gains] == [("max_batch", None), ("http_workers", None)]


def test_a_setting_stays_if_no_service_starts_without_it() -> None:
    """Its gain is not stated, and the other setting is measured."""
    run, services = simulation({BOTH: 1000, BATCH: 1000, WORKERS: 1000})
    services[WORKERS].starts = False

    found = asyncio.run(simplify(confirmed(BOTH, 850), OBJECTIVE, latency, run))

    assert (found.candidate, found.removed) == (BATCH, ["http_workers"])
    assert [(gain.name, gain.with_it) for gain in found.gains] == [("max_batch", None)]


def test_a_confirmed_answer_does_not_need_the_defaults() -> None:
    """A candidate without its only setting is the defaults, which have been measured before."""
    run, services = simulation({WORKERS: 1000, DEFAULTS: 500})
    services[DEFAULTS].starts = False

    found = asyncio.run(simplify(confirmed(WORKERS, 850), OBJECTIVE, latency, run))

    assert (found.candidate, found.removed) == (WORKERS, [])
