"""A clock that only windows move, and a fleet of simulated services. Knows no processes."""

import math
from collections.abc import Mapping
from dataclasses import replace

from app.errors import StartError
from app.tuning.candidate import Candidate
from app.tuning.measurement import Measurement
from app.tuning.objective import Objective
from app.tuning.prediction import Prediction
from app.tuning.run import Run
from app.tuning.schedule import AROUND_SECONDS, Schedule
from app.tuning.service_process import ServiceEnded
from app.tuning.trials import Trial

# The objective of the simulated services.
OBJECTIVE = Objective(99, 0.01)

# Seconds that the start of a simulated service takes.
START_SECONDS = 2.0


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def measured(
    rate: float, *, holds: bool = True, latency_ms: float = 5.0, cpu_ms: float = 1.0, share_in_time: float | None = None
) -> Measurement:
    """Return the figures of a window."""
    if share_in_time is None:
        share_in_time = 1.0 if holds else 0.5
    return Measurement(
        rate=rate,
        answered=rate,
        requests=1000,
        refused=0,
        lost=0,
        share_in_time=share_in_time,
        p50_ms=latency_ms / 2,
        p99_ms=latency_ms,
        latency_ms=latency_ms,
        cpu_ms=cpu_ms,
        generator_ms=0.1,
        noise=0.0,
        holds=holds,
    )


class Simulated:
    """A service that holds all rates up to its capacity. Its latency grows with the rate."""

    def __init__(self, clock: Clock, capacity: float, cpu_ms: float = 1.0) -> None:
        self.capacity, self._clock, self._cpu_ms = capacity, clock, cpu_ms
        self.windows = list[tuple[float, float]]()  # rate and seconds
        self.disturbed = 0  # so many next windows fail, because other programs run
        self.shares = list[float]()  # the shares of requests in time of the next windows
        self.starts = True  # or there is a fault with these settings
        self.lifetime = math.inf  # it is killed in the window after so many

    async def open(self, rate: float, seconds: float) -> Measurement:
        if len(self.windows) >= self.lifetime:
            raise ServiceEnded("killed")
        self._clock.seconds += seconds + AROUND_SECONDS
        self.windows.append((rate, seconds))
        if self.disturbed:
            self.disturbed -= 1
            return replace(measured(rate, holds=False), noise=0.3)
        if self.shares:
            share = self.shares.pop(0)
            return measured(rate, holds=OBJECTIVE.is_met(round(1000 * share), 1000), share_in_time=share)
        latency_ms = 12 * rate / self.capacity
        return measured(rate, holds=rate <= self.capacity, latency_ms=latency_ms, cpu_ms=self._cpu_ms)

    async def alone(self, seconds: float) -> Measurement:
        self._clock.seconds += seconds + AROUND_SECONDS
        return measured(100)


class SimulatedFleet:
    """Simulated services by candidate, of which so many run at once. Each starts when it is used and does not run."""

    def __init__(self, clock: Clock, services: Mapping[Candidate, Simulated], limit: int, start_seconds: float) -> None:
        self.start_seconds, self.limit = start_seconds, limit
        self.started = list[Candidate]()
        self._clock, self._services = clock, services
        self._running = list[Candidate]()  # the one that was used last is last

    async def meter(self, candidate: Candidate) -> Simulated:
        if not self._services[candidate].starts:
            raise StartError("no memory")
        if candidate in self._running:
            self._running.remove(candidate)
        else:
            self._running = self._running[max(len(self._running) - self.limit + 1, 0) :]
            self.started.append(candidate)
            self._clock.seconds += self.start_seconds
        self._running.append(candidate)
        return self._services[candidate]

    def release(self, candidate: Candidate) -> None:
        if candidate in self._running:
            self._running.remove(candidate)


def simulation(
    capacities: Mapping[Candidate, float],
    seconds: float = 120,
    cpu_ms: Mapping[Candidate, float] | None = None,
    *,
    limit: int = 100,
    start_seconds: float = START_SECONDS,
) -> tuple[Run, dict[Candidate, Simulated]]:
    """Return a run with so many seconds of simulated time, and its services."""
    clock = Clock()
    services = {
        candidate: Simulated(clock, capacity, (cpu_ms or {}).get(candidate, 1.0))
        for candidate, capacity in capacities.items()
    }
    return Run(
        SimulatedFleet(clock, services, limit, start_seconds), Schedule(seconds, clock), lambda _: None
    ), services


def trial(candidate: Candidate, predicted: float, *, share_in_time: float = 1.0) -> Trial:
    """Return a trial that has only been predicted, and measured with one client."""
    alone = measured(100, holds=share_in_time == 1.0, share_in_time=share_in_time)
    return Trial(Prediction(candidate, predicted, 0.004, "CPU", 8, 0.001), alone)
