"""What the benchmarks on a GPU have to reach, and how far they do."""

import contextlib
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np

Row = dict[str, Any]
Rows = list[Row]
"""What a part found: figures by name, in one table."""

COMPILED = "torch.compile"
SMALLEST = "swin-t"


class Goal(NamedTuple):
    """What is to be reached, where it was measured."""

    name: str
    figure: Callable[[Mapping[str, Any]], float]  # of the parts of one network
    least: float = -np.inf
    most: float = np.inf
    network: str | None = None  # of all, where there is none

    @property
    def wanted(self) -> str:
        """For people."""
        return f"≥ {self.least:g}" if self.least > -np.inf else f"≤ {self.most:g}"

    def is_met(self, figure: float) -> bool:
        """Whether it is reached."""
        return self.least <= figure <= self.most


GOALS = (
    Goal("images/s of the engine", lambda parts: _most(parts["engine"]), least=12_000, network=SMALLEST),
    Goal("ms of a batch of 1", lambda parts: parts["engine"][0]["ms"], most=0.8, network=SMALLEST),
    Goal("torch.compile, of the engine's time", lambda parts: _gain(parts["peers"]), least=1.3),
    Goal("top-1 agreement", lambda parts: min(row["top1"] for row in parts["agreement"]), least=0.995),
    Goal("Δlogit, of the range", lambda parts: max(row["delta"] for row in parts["agreement"]), most=0.02),
    Goal("MiB that memory grows by", lambda parts: parts["memory"][0]["growth_mib"], most=16),
    Goal("share that the service keeps", lambda parts: parts["service"][0]["share"], least=0.85),
    Goal("answers wrong or lost", lambda parts: parts["service"][0]["wrong"] + parts["service"][0]["lost"], most=0),
)


def _most(rows: Rows) -> float:
    return max(float(row["images_per_second"]) for row in rows)


def _gain(rows: Rows) -> float:
    """How many times the engine's time torch takes, compiled, in the batches that suit it best.

    Raises:
        KeyError: torch could not compile.
    """
    gains = [float(row["of_engine"]) for row in rows if COMPILED in row["contestant"]]
    if not gains:
        raise KeyError(COMPILED)
    return min(gains)


def goals(networks: Mapping[str, Mapping[str, Rows]]) -> Rows:
    """How far each goal is reached, where something was measured for it."""
    found = []
    for (name, parts), goal in product(networks.items(), GOALS):
        done = {part: good for part, rows in parts.items() if (good := [row for row in rows if "failed" not in row])}
        with contextlib.suppress(KeyError):
            if goal.network in {None, name}:
                figure = goal.figure(done)
                found.append({"network": name, "goal": goal.name, "wanted": goal.wanted, "found": figure})
                found[-1]["is_met"] = goal.is_met(figure)
    return found
