"""Tests of `benchmarks/behavior/curve.py`."""

import pytest

from benchmarks.behavior.curve import Point, cliffs


def point(size: float, *milliseconds: float, units: float = 1) -> Point:
    """Return a point with this CPU time of a request in each round."""
    return Point(size, units, [{"cpu_ms": value} for value in milliseconds])


def test_figures_are_medians() -> None:
    """One slow round changes only the maximum, not the median."""
    figures = point(2, 3.0, 9.0, 4.0, units=2).figures

    assert figures == {"cpu_ms": 4.0, "unit_ms": 2.0, "unit_ms_min": 1.5, "unit_ms_max": 4.5}


def test_a_cliff_is_where_a_unit_costs_more() -> None:
    """Twice the work at twice the cost is no cliff; at five times the cost it is one."""
    points = [point(1, 1.0, units=1), point(2, 2.0, units=2), point(4, 10.0, units=4), point(8, 20.0, units=8)]

    assert [(before.size, after.size) for before, after in cliffs(points)] == [(2, 4)]


@pytest.mark.parametrize("after", [(1.2, 1.2, 1.2), (0.9, 2.0, 2.0)], ids=["small", "contradicted by a round"])
def test_noise_is_no_cliff(after: tuple[float, ...]) -> None:
    """A small increase, and one that a round contradicts, are not reported."""
    assert list(cliffs([point(1, 1.0, 1.0, 1.0), point(2, *after)])) == []
