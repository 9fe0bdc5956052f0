"""The processes of candidates: as many at once as the memory allows, the others by turns. Knows no rates."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from app.system.memory import available_memory
from app.tuning.candidate import Candidate
from app.tuning.measurement import Meter, ServiceMeter, traffic
from app.tuning.objective import Objective
from app.tuning.service_process import ServiceProcess

# The share of the available memory that the processes may take together.
MEMORY_SHARE = 0.5

# Processes at once if their memory is not known: on GPUs, which have memory of their own, or if it cannot be read.
# These are the winner and the defaults in the confirmation.
FEW_PROCESSES = 2


# The timeout of a start after the first one, as a share of the timeout of the first one.
LATER_START_SHARE = 1 / 4


class Fleet(Protocol):
    """Gives the meter of a candidate."""

    start_seconds: float  # that a start takes
    limit: int  # services that run at once, at least one; the one that was used least lately gives way

    async def meter(self, candidate: Candidate) -> Meter:
        """Return the meter of a candidate. Start its service if it does not run."""

    def release(self, candidate: Candidate) -> None:
        """Stop the service of a candidate, if it runs."""


@dataclass(frozen=True)
class Launch:
    """The settings, images and objective that all processes have in common."""

    variables: Mapping[str, str]  # settings that are not tuned
    key: str | None  # an API key
    images: Sequence[bytes]
    objective: Objective
    on_gpu: bool
    max_connections: int  # of a service
    start_timeout: float  # of the first process, in seconds


class ProcessFleet:
    """Real processes. Open it with `open_fleet`."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._traffic = traffic(launch.images, launch.key, launch.objective, launch.max_connections)
        self._random = Random(0)  # noqa: S311 (arrivals, not secrets)
        self._running = dict[Candidate, tuple[ServiceProcess, ServiceMeter]]()  # the one that was used last is last
        self.limit = FEW_PROCESSES if launch.on_gpu else 0  # 0: not known before the first start
        self.start_seconds = 0.0  # of the first process

    async def meter(self, candidate: Candidate) -> ServiceMeter:
        """Return the meter of a candidate.

        Raises:
            StartError: its service does not start.
        """
        if candidate in self._running:
            self._running[candidate] = entry = self._running.pop(candidate)
            return entry[1]
        while self.limit and len(self._running) >= self.limit:
            self.release(next(iter(self._running)))
        launch = self._launch
        variables = {**launch.variables, **candidate.variables}
        limit = launch.start_timeout * (LATER_START_SHARE if self.start_seconds else 1)
        process = await ServiceProcess.start(variables, launch.key, limit)
        meter = ServiceMeter(process, self._traffic, self._random)
        self._running[candidate] = process, meter
        if not self.limit:
            self.limit = _limit(process)
        self.start_seconds = self.start_seconds or process.start_seconds
        return meter

    def release(self, candidate: Candidate) -> None:
        if candidate in self._running:
            self._running.pop(candidate)[0].stop()

    def close(self) -> None:
        """Stop all processes, also if one of them cannot be stopped."""
        with contextlib.ExitStack() as stack:
            for candidate in [*self._running]:
                stack.callback(self.release, candidate)


def _limit(first: ServiceProcess) -> int:
    """Return how many processes may run, by the memory of the first one, which runs already."""
    memory = first.usage().memory
    if not memory:
        return FEW_PROCESSES
    return max(int(MEMORY_SHARE * (available_memory() + memory) / memory), 1)


@contextlib.asynccontextmanager
async def open_fleet(launch: Launch) -> AsyncIterator[ProcessFleet]:
    """Yield a fleet, and stop its processes at the end of the block."""
    fleet = ProcessFleet(launch)
    try:
        yield fleet
    finally:
        fleet.close()
