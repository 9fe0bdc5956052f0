"""The work of a machine that runs both the service and its load: the cores that neither of them keeps busy.

Knows no windows.
"""

import asyncio
import ipaddress
import os
import re

from app.load.client_pool import Broken, ClientPool
from app.load.cpu_times import MAX_OTHER_SHARE, CpuTimes
from app.load.target import Target
from app.system.processes import PROC

# The CPU time of all processes of the service, in the text of `GET /metrics`.
CPU_SECONDS = re.compile(rb"^process_cpu_seconds_total (\S+)$", re.MULTILINE)

# Timeout in seconds for the metrics. A service under load answers them within its other requests.
TIMEOUT_SECONDS = 5

# Cores that other work may use before the figures of a window are in doubt.
MAX_OTHER_CORES = MAX_OTHER_SHARE * (os.cpu_count() or 1)


class OtherWork:
    """Samples of a service on this machine, as it reports its CPU time in `GET /metrics`."""

    def __init__(self, target: Target, pool: ClientPool) -> None:
        self._request, self._pool = target.get("/metrics"), pool
        self._can_tell = is_loopback(target.address[0]) and (PROC / "stat").exists()

    async def sample(self) -> CpuTimes | None:
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
        return None if service is None else CpuTimes.now(service)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by its name."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
