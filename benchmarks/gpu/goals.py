"""Goals of the benchmarks on a GPU, and whether the measured figures meet them."""

import contextlib
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any, NamedTuple

import numpy as np

# Rows of the table of one part: figures by name.
Row = dict[str, Any]
Rows = list[Row]

COMPILED = "torch.compile"
SMALLEST = "swin-t"


class Goal(NamedTuple):
    """A figure and its bounds."""

    name: str
    figure: Callable[[Mapping[str, Any]], float]  # takes the parts of one network
    minimum: float = -np.inf
    maximum: float = np.inf
    network: str | None = None  # the only network with this goal; None for all

    @property
    def target(self) -> str:
        """The bound, as text."""
        return f"≥ {self.minimum:g}" if self.minimum > -np.inf else f"≤ {self.maximum:g}"

    def is_met(self, figure: float) -> bool:
        """Return whether the figure is within the bounds."""
        return self.minimum <= figure <= self.maximum


GOALS = (
    Goal("engine, images/s", lambda parts: _best_rate(parts["engine"]), minimum=12_000, network=SMALLEST),
    Goal("batch of 1, ms", lambda parts: parts["engine"][0]["ms"], maximum=0.8, network=SMALLEST),
    Goal("torch.compile, of the engine's time", lambda parts: _gain(parts["baselines"]), minimum=1.3),
    Goal("top-1 agreement", lambda parts: min(row["top1"] for row in parts["agreement"]), minimum=0.995),
    Goal("Δlogit, of the range", lambda parts: max(row["delta"] for row in parts["agreement"]), maximum=0.02),
    Goal("memory growth, MiB", lambda parts: parts["memory"][0]["growth_mib"], maximum=16),
    Goal("service, of the possible rate", lambda parts: parts["service"][0]["share"], minimum=0.85),
    Goal("wrong or lost", lambda parts: parts["service"][0]["wrong"] + parts["service"][0]["lost"], maximum=0),
)


def _best_rate(rows: Rows) -> float:
    return max(float(row["images_per_second"]) for row in rows)


def _gain(rows: Rows) -> float:
    """Return how many times the engine's time compiled torch takes: the minimum of the batch sizes.

    Raises:
        KeyError: torch could not compile.
    """
    gains = [float(row["of_engine"]) for row in rows if COMPILED in row["candidate"]]
    if not gains:
        raise KeyError(COMPILED)
    return min(gains)


def goals(networks: Mapping[str, Mapping[str, Rows]]) -> Rows:
    """Return a row for each goal with a measured figure. Skip parts that failed or did not run."""
    found = []
    for (name, parts), goal in product(networks.items(), GOALS):
        done = {part: good for part, rows in parts.items() if (good := [row for row in rows if "failed" not in row])}
        with contextlib.suppress(KeyError):
            if goal.network in {None, name}:
                figure = goal.figure(done)
                found.append({"network": name, "goal": goal.name, "target": goal.target, "value": figure})
                found[-1]["is_met"] = goal.is_met(figure)
    return found
