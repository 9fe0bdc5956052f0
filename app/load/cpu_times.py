"""The CPU times of a service, of its load generator and of the machine that runs both. Asks no service."""

import time
from collections.abc import Collection
from typing import NamedTuple

from app.system.processes import busy_seconds

# The share of the CPUs that other work may take before the figures of a window are in doubt: a twentieth.
MAX_OTHER_SHARE = 0.05


class CpuTimes(NamedTuple):
    """CPU seconds up to a moment, or between two moments."""

    time: float  # seconds that have passed
    machine: float  # all of its CPUs, or some
    generator: float  # this process
    service: float

    @classmethod
    def now(cls, service: float, cpus: Collection[int] | None = None) -> "CpuTimes":
        """Return the times up to now. The service has taken `service` seconds. None: all CPUs of the machine."""
        return cls(time.perf_counter(), busy_seconds(cpus), time.process_time(), service)

    def since(self, earlier: "CpuTimes") -> "CpuTimes":
        """Return the times between an earlier moment and this one."""
        return CpuTimes(*(after - before for after, before in zip(self, earlier, strict=True)))

    @property
    def other_cores(self) -> float:
        """The mean number of cores that were busy with other work.

        The machine is counted in ticks of its clock, processes more exactly: the difference can be negative.
        """
        return max(0.0, self.machine - self.generator - self.service) / self.time
