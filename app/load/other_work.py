"""The work of a machine that runs both the service and its load: the cores that neither of them keeps busy.

Knows no windows.
"""

import asyncio
import ipaddress
import os
import re
import time
from dataclasses import dataclass

from app.load.client_pool import Broken, ClientPool
from app.load.target import Target
from app.system.processes import PROC, busy_seconds

# The CPU time of all processes of the service, in the text of `GET /metrics`.
CPU_SECONDS = re.compile(rb"^process_cpu_seconds_total (\S+)$", re.MULTILINE)

# Timeout in seconds for the metrics. A service under load answers them within its other requests.
TIMEOUT_SECONDS = 5

# Cores that other work may use before the figures of a window are in doubt: a twentieth of the machine.
MAX_OTHER_CORES = 0.05 * (os.cpu_count() or 1)


@dataclass(frozen=True)
class Sample:
    """CPU seconds of the machine, of this process and of the service, up to a moment."""

    time: float
    machine: float
    load: float
    service: float

    def other_cores_since(self, earlier: "Sample") -> float:
        """Return how many cores were busy with other work. The machine is counted in ticks of its clock."""
        busy = self.machine - earlier.machine
        own = self.load - earlier.load + self.service - earlier.service
        return max(0.0, busy - own) / (self.time - earlier.time)


class OtherWork:
    """Samples of a service on this machine, as it reports its CPU time in `GET /metrics`."""

    def __init__(self, target: Target, pool: ClientPool) -> None:
        self._request, self._pool = target.get("/metrics"), pool
        self._can_tell = is_loopback(target.address[0]) and (PROC / "stat").exists()

    async def sample(self) -> Sample | None:
        """Return a sample. None for a service on another machine, or one that does not report its CPU time."""
        if not self._can_tell:
            return None
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                response = await self._pool.send(self._request)
        except (Broken, OSError):  # includes the timeout
            return None
        found = CPU_SECONDS.search(response.body)
        try:
            service = float(found[1]) if found else None
        except ValueError:
            service = None
        if service is None:
            return None
        return Sample(time.perf_counter(), busy_seconds(), time.process_time(), service)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its name."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
