"""A curve: what was measured as the work grew, and where a unit of it suddenly costs more."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

JUMP = 1.25
"""A unit that costs so many times what it cost at the size before is a cliff, if no two rounds contradict."""


@dataclass(frozen=True)
class Point:
    """One size of the work, measured in some rounds."""

    size: float
    units: float  # of work in one request
    rounds: Sequence[Mapping[str, float]]  # figures by name; `cpu_ms` is a request's

    @property
    def figures(self) -> Mapping[str, float]:
        """The medians of the rounds, and of `unit_ms`: the CPU time of a unit, and from where to where it went."""
        costs = self.unit_costs
        medians = {name: median(row[name] for row in self.rounds) for name in self.rounds[0]}
        return medians | {"unit_ms": median(costs), "unit_ms_least": min(costs), "unit_ms_most": max(costs)}

    @property
    def unit_costs(self) -> Sequence[float]:
        """CPU milliseconds of a unit, in each round."""
        return [row["cpu_ms"] / self.units for row in self.rounds]

    def row(self) -> dict[str, Any]:
        """For the record."""
        return {"size": round(self.size, 3), **{name: round(value, 4) for name, value in self.figures.items()}}


def cliffs(points: Sequence[Point]) -> Iterator[tuple[Point, Point]]:
    """Neighbors of which the larger costs more for a unit: by more than `JUMP`, and in every round."""
    for before, after in pairwise(points):
        jumps = median(after.unit_costs) > JUMP * median(before.unit_costs)
        if jumps and min(after.unit_costs) > max(before.unit_costs):
            yield before, after
