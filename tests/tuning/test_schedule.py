"""The plan of the time, with a clock that is moved by hand."""

import pytest

from app.tuning.schedule import AROUND_SECONDS, MAX_WINDOW_SECONDS, MIN_WINDOW_SECONDS, Schedule
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


@pytest.mark.parametrize(("minutes", "expected"), [(0.5, 1), (3, 6), (60, 6)])
def test_fewer_candidates_are_started_in_a_short_time(minutes: float, expected: int) -> None:
    """With starts of 2 seconds, half a minute is enough for one candidate, and no time for more than the limit."""
    assert Schedule(60 * minutes, Clock()).candidates(2.0, 6) == expected
