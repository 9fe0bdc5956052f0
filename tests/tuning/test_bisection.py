"""The search for the highest rate that holds."""

import math

import pytest

from app.tuning.bisection import Bisection, worth_more_windows


def searched(capacity: float, predicted: float, windows: int) -> Bisection:
    """Return a search of a service that holds all rates up to its capacity, and answers that many when overloaded."""
    search = Bisection(predicted)
    for _ in range(windows):
        rate = search.next_rate
        search.add(rate, holds=rate <= capacity, answered=min(rate, capacity))
    return search


@pytest.mark.parametrize("predicted", [100, 300, 1000, 3000])
def test_the_highest_rate_is_found_from_any_prediction(predicted: float) -> None:
    """Six windows find a capacity of 700 to within a tenth, from a prediction that is up to seven times wrong."""
    search = searched(700, predicted, 6)

    assert 0.9 * 700 <= search.held <= 700 < search.failed


def test_the_search_begins_below_the_prediction() -> None:
    """A prediction knows no waiting, so it is an upper bound."""
    assert Bisection(1000).next_rate < 1000


def test_an_overload_shows_where_to_go_on() -> None:
    """The next rate is below the rate that an overloaded service answers."""
    search = Bisection(1000)
    search.add(800, holds=False, answered=400)

    assert search.next_rate == pytest.approx(360)


def test_the_search_ends_when_its_bounds_are_close() -> None:
    """Bounds of 100 and 104 are done, bounds of 100 and 120 are not."""
    search = Bisection(100)
    search.add(100, holds=True, answered=100)
    search.add(120, holds=False, answered=100)
    assert not search.is_done

    search.add(104, holds=False, answered=100)

    assert search.is_done


def test_a_window_drops_those_that_it_contradicts() -> None:
    """After a disturbed window fails at a low rate, one that holds at a higher rate counts, and the other way round."""
    search = Bisection(100)
    search.add(60, holds=False, answered=10)
    search.add(80, holds=True, answered=80)
    assert (search.held, search.failed) == (80, math.inf)

    search.add(70, holds=False, answered=70)

    assert (search.held, search.failed) == (0, 70)


def test_a_search_that_is_behind_is_dropped() -> None:
    """Upper bounds of 500 and 600 are not above 700, the best rate that held."""
    best, near, behind, far = (searched(each, each, 3) for each in (700, 690, 500, 100))

    assert worth_more_windows([best, near, behind, far]) == [True, True, False, False]


def test_a_search_that_is_behind_is_dropped_also_from_two() -> None:
    """Two stay at least, unless one of them is behind."""
    assert worth_more_windows([searched(700, 700, 3), searched(100, 100, 3)]) == [True, False]


def test_half_of_the_searches_stay() -> None:
    """Successive halving: of six that are equal, three get more windows."""
    assert sum(worth_more_windows([searched(700, 700, 2) for _ in range(6)])) == 3


def test_searches_that_held_nothing_go_on() -> None:
    """If no search has held a rate, at least two of them go on."""
    assert sum(worth_more_windows([searched(1, 1000, 1) for _ in range(3)])) == 2
