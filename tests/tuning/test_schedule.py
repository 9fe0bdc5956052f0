"""The plan of the time, with a clock that is moved by hand."""

import pytest

from app.tuning.schedule import (
    AROUND_SECONDS,
    CONFIRMATION_END,
    MAX_WINDOW_SECONDS,
    MIN_WINDOW_SECONDS,
    SIMPLIFICATION_END,
    TRIALS_END,
    Schedule,
)
from tests.tuning.fakes import Clock


def test_windows_share_the_time_of_a_phase() -> None:
    """Ten planned windows fill half of 100 seconds, however long each is."""
    clock = Clock()
    schedule = Schedule(100, clock)

    for left in range(10, 0, -1):
        seconds = schedule.window(0.5, left, 1e6)
        assert seconds is not None
        clock.seconds += seconds + AROUND_SECONDS

    assert clock.seconds == pytest.approx(50)


def test_a_window_that_took_longer_shortens_the_others() -> None:
    """Four seconds were lost, so four windows are a second shorter each."""
    clock = Clock()
    schedule = Schedule(100, clock)
    planned = schedule.window(0.2, 4, 1e6)
    clock.seconds += 4

    assert planned is not None
    assert schedule.window(0.2, 4, 1e6) == pytest.approx(planned - 1)


def test_no_window_begins_after_the_end_of_its_phase() -> None:
    """The last window is short, and then there is none."""
    clock = Clock()
    schedule = Schedule(100, clock)
    clock.seconds = 50 - MIN_WINDOW_SECONDS - AROUND_SECONDS
    assert schedule.window(0.5, 3, 100) == pytest.approx(MIN_WINDOW_SECONDS)

    clock.seconds = 49.5

    assert schedule.window(0.5, 3, 100) is None


def test_a_low_rate_gets_longer_and_fewer_windows() -> None:
    """At 20 requests/s, 400 requests take 20 seconds; ten windows are planned in 60 seconds, and two must fit."""
    schedule = Schedule(60, Clock())

    assert schedule.window(1, 10, 20, least=2) == 20
    assert schedule.window(1, 10, 20, least=10) == pytest.approx(6 - AROUND_SECONDS)


def test_a_window_is_not_longer_than_needed() -> None:
    """An hour for two windows does not make them longer than the machine stays the same."""
    assert Schedule(3600, Clock()).window(1, 2, 1000) == MAX_WINDOW_SECONDS


def test_late_starts_shorten_all_phases_after_them() -> None:
    """Candidates that start slowly leave time for windows of trials and of the confirmation."""
    clock = Clock()
    schedule = Schedule(100, clock)
    planned = schedule.left_until(CONFIRMATION_END) - schedule.left_until(TRIALS_END)
    clock.seconds = 70

    assert schedule.left_until(TRIALS_END) < 0
    schedule.end_starts()

    assert 0 < schedule.left_until(TRIALS_END) < schedule.left_until(CONFIRMATION_END)
    assert schedule.left_until(CONFIRMATION_END) - schedule.left_until(TRIALS_END) < planned
    assert schedule.left_until(SIMPLIFICATION_END) == pytest.approx(100 * SIMPLIFICATION_END - 70)


def test_early_starts_leave_the_phases_as_planned() -> None:
    """The trials get the time."""
    clock = Clock()
    schedule = Schedule(100, clock)
    clock.seconds = 20

    schedule.end_starts()

    assert schedule.left_until(TRIALS_END) == pytest.approx(100 * TRIALS_END - 20)


@pytest.mark.parametrize(("minutes", "expected"), [(0.5, 1), (3, 6), (60, 6)])
def test_fewer_candidates_are_started_in_a_short_time(minutes: float, expected: int) -> None:
    """With starts of 2 seconds, half a minute is enough for one candidate, and no time for more than the limit."""
    assert Schedule(60 * minutes, Clock()).candidates(2.0, 6) == expected


def test_windows_leave_time_for_later_starts() -> None:
    """Ten windows share the 40 seconds that 10 seconds of starts leave. Starts take at most half of the time."""
    schedule = Schedule(100, Clock())

    assert schedule.window(0.5, 10, 1e6, starts=10) == pytest.approx(4 - AROUND_SECONDS)
    assert schedule.window(0.5, 10, 1e6, starts=1000) == pytest.approx(2.5 - AROUND_SECONDS)
