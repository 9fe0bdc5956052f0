"""Curves of measurements over the size of the work, and their cliffs.

Knows nothing about the service.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

# A unit of work that costs this many times the cost at the previous size is a cliff, if the ranges of
# the rounds do not overlap.
JUMP = 1.25


@dataclass(frozen=True)
class Point:
    """One size of the work, measured in several rounds."""

    size: float
    units: float  # units of work in one request
    rounds: Sequence[Mapping[str, float]]  # figures by name; `cpu_ms` is per request

    @property
    def figures(self) -> Mapping[str, float]:
        """The medians of the rounds; and `unit_ms`, the CPU time of a unit, with its minimum and maximum."""
        costs = self.unit_costs
        medians = {name: median(row[name] for row in self.rounds) for name in self.rounds[0]}
        return medians | {"unit_ms": median(costs), "unit_ms_min": min(costs), "unit_ms_max": max(costs)}

    @property
    def unit_costs(self) -> Sequence[float]:
        """CPU milliseconds of a unit in each round."""
        return [row["cpu_ms"] / self.units for row in self.rounds]

    def row(self) -> dict[str, Any]:
        """Return the size and the rounded figures, as the record keeps them."""
        return {"size": round(self.size, 3), **{name: round(value, 4) for name, value in self.figures.items()}}


def cliffs(points: Sequence[Point]) -> Iterator[tuple[Point, Point]]:
    """Yield neighbors where a unit costs more than `JUMP` times as much, without an overlap of the rounds."""
    for before, after in pairwise(points):
        jumps = median(after.unit_costs) > JUMP * median(before.unit_costs)
        if jumps and min(after.unit_costs) > max(before.unit_costs):
            yield before, after
