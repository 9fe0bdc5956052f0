"""The state of a run that its phases share: fleet, time, history of windows, and candidates that are out.

Knows no processes: a fleet gives the meters.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from app.errors import StartError
from app.load.cpu_times import MAX_OTHER_SHARE
from app.tuning.candidate import DEFAULTS, Candidate
from app.tuning.fleet import Fleet
from app.tuning.measurement import Measurement
from app.tuning.schedule import SIMPLIFICATION_END, Schedule
from app.tuning.service_process import ServiceEnded

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A window of an open loop, and what it was for."""

    phase: str
    candidate: Candidate
    window: Measurement
    is_repeated: bool = False  # because other programs disturbed it


@dataclass(frozen=True)
class Run:
    """The fleet, the time and the messages that all phases of a run share.

    If a service does not start, or ends, its candidate is out of the run. Without the defaults, there is no answer.
    """

    fleet: Fleet
    schedule: Schedule
    report: Callable[[str], None]  # takes a sentence about what is being done
    failed: dict[Candidate, str] = field(default_factory=dict)  # candidates that are out, with the reasons
    history: list[Entry] = field(default_factory=list)  # all windows

    async def start(self, candidate: Candidate) -> bool:
        """Start the service of a candidate, if it does not run. Return whether it runs.

        Raises:
            ServiceEnded: the defaults do not start again.
        """
        return await self._tried(candidate, lambda: self.fleet.meter(candidate)) is not None

    async def alone(self, candidate: Candidate, seconds: float) -> Measurement | None:
        """Measure a single client on a candidate; None if the candidate is out.

        Raises:
            ServiceEnded: the defaults have ended.
        """

        async def measure() -> Measurement:
            return await (await self.fleet.meter(candidate)).alone(seconds)

        return await self._tried(candidate, measure)

    async def window(self, phase: str, candidate: Candidate, rate: float, seconds: float) -> Measurement | None:
        """Measure a window of an open loop on a candidate; None if the candidate is out.

        A window that fails while other programs take CPU time says little about the candidate. It is measured again,
        once, if there is time.

        Raises:
            ServiceEnded: the defaults have ended.
        """
        self.report(f"{phase}: {candidate}, {rate:,.4g} requests/s")

        async def measure() -> Measurement:
            meter = await self.fleet.meter(candidate)
            window = await meter.open(rate, seconds)
            is_disturbed = not window.holds and window.noise > MAX_OTHER_SHARE
            has_time = self.schedule.left_until(SIMPLIFICATION_END) > seconds + self.schedule.around
            self.history.append(Entry(phase, candidate, window, is_repeated=is_disturbed and has_time))
            if is_disturbed and has_time:
                window = await meter.open(rate, seconds)
                self.history.append(Entry(phase, candidate, window))
            return window

        return await self._tried(candidate, measure)

    async def _tried(self, candidate: Candidate, work: Callable[[], Awaitable[T]]) -> T | None:
        if candidate in self.failed:
            return None
        try:
            return await work()
        except (StartError, ServiceEnded) as error:
            self.fleet.release(candidate)
            if candidate == DEFAULTS:
                raise ServiceEnded(str(error)) from error
            self.failed[candidate] = str(error)
            return None
