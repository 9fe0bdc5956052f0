"""A sweep over the load of one service: closed loops by their clients, then open loops by their rates.

Prints nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol

from app.load.cpu_times import CpuTimes
from app.load.other_work import OtherWork
from app.load.windows import Load, Window

# Arrival rates of open loops, as shares of the highest rate of the closed loops.
SHARES = (0.1, 0.3, 0.5, 0.65, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Plan:
    """The windows of a sweep."""

    clients: Sequence[int]  # of the closed loops
    rates: Sequence[float] | None  # of the open loops, per second; None: `SHARES` of the highest rate
    seconds: float  # length of a window
    warm_up: float  # seconds of the same load before each window
    seed: int  # of the arrivals

    @property
    def windows(self) -> int:
        """The number of windows."""
        return len(self.clients) + len(SHARES if self.rates is None else self.rates)


class Measured(NamedTuple):
    """A window, and the cores that other work of the machine used. None if that is not known."""

    window: Window
    other_cores: float | None = None


class Progress(Protocol):
    """Shows the progress of a sweep, before and after a window. It is not called during a window."""

    def begin(self, name: str) -> None: ...

    def end(self, name: str, window: Window) -> None: ...


@dataclass
class Sweep:
    """The windows that are measured so far."""

    plan: Plan
    closed: list[Measured] = field(default_factory=list)
    open: list[Measured] = field(default_factory=list)
    is_complete: bool = False  # `run` has measured all windows that it can
    is_silent: bool = False  # the service has ceased to answer, so `run` ended

    @property
    def all(self) -> Sequence[Measured]:
        """The windows in the order of their measurement."""
        return [*self.closed, *self.open]

    @property
    def best_rate(self) -> float:
        """The highest rate of the closed loops, in requests per second."""
        return max((measured.window.requests_per_second for measured in self.closed), default=0.0)

    async def run(self, load: Load, other: OtherWork, progress: Progress) -> None:
        """Measure all windows, or until the service ceases to answer.

        Without a good response in the closed loops, there is no rate to take shares of, and no open loop.
        """
        plan, random = self.plan, Random(self.plan.seed)  # noqa: S311 (arrivals, not secrets)
        for clients in plan.clients:
            before = await other.sample()
            progress.begin(name := name_of(clients=clients))
            window = await load.closed(clients, plan.seconds, plan.warm_up)
            self.closed.append(Measured(window, await _other_cores(other, before)))
            progress.end(name, window)
            if await self._fell_silent(window, load):
                return
        for rate in [share * self.best_rate for share in SHARES] if plan.rates is None else plan.rates:
            if not rate:
                break
            before = await other.sample()
            progress.begin(name := name_of(rate=rate))
            window = await load.open(rate, plan.seconds, random, plan.warm_up)
            self.open.append(Measured(window, await _other_cores(other, before)))
            progress.end(name, window)
            if await self._fell_silent(window, load):
                return
        self.is_complete = True

    async def _fell_silent(self, window: Window, load: Load) -> bool:
        """Return whether the service answers neither the window nor one request after it."""
        ok, refused, failed, lost = window.counts
        self.is_silent = bool(lost) and not ok + refused + failed and not await load.is_answered()
        return self.is_silent


async def _other_cores(other: OtherWork, before: CpuTimes | None) -> float | None:
    after = await other.sample()
    return None if before is None or after is None else after.since(before).other_cores


def name_of(clients: int | None = None, rate: float | None = None) -> str:
    """Return the name of a window."""
    if clients is not None:
        return f"{clients:,} client{'s' if clients > 1 else ''}"
    return f"{rate:,.1f} arrivals/s"
