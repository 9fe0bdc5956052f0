"""Trials: windows of load on each candidate, interleaved, until its highest rate is known or it is behind.

Knows no processes: a fleet gives the meters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from app.tuning.bisection import Bisection, worth_more_windows
from app.tuning.candidate import Candidate
from app.tuning.measurement import Measurement
from app.tuning.prediction import Prediction
from app.tuning.run import Run
from app.tuning.schedule import CONFIRMATION_END, TRIALS_END

# Windows of a candidate in each of the two rounds.
WINDOWS = 3

# Windows of a candidate in each round at a rate that is given.
WINDOWS_AT_RATE = 2


@dataclass
class Trial:
    """A candidate with its prediction and all its windows so far."""

    prediction: Prediction
    alone: Measurement  # one request at a time
    windows: list[Measurement] = field(default_factory=list)
    is_dropped: bool = False  # after the first round, or because its service failed

    def __post_init__(self) -> None:
        self.search = Bisection(self.prediction.rate)

    @property
    def candidate(self) -> Candidate:
        """The settings that are tried."""
        return self.prediction.candidate

    @property
    def is_hopeless(self) -> bool:
        """Return whether even one request at a time is usually late."""
        return self.alone.share_in_time < 1 / 2

    @property
    def held(self) -> float:
        """The highest rate that held."""
        return self.search.held

    @property
    def best(self) -> Measurement | None:
        """The window of the highest rate that held."""
        held = [window for window in self.windows if window.holds and window.rate <= self.held]
        return max(held, key=lambda window: window.rate, default=None)

    def add(self, window: Measurement | None) -> None:
        """Take a window of an open loop. Without one, the candidate is out, so the trial is dropped."""
        if window is None:
            self.is_dropped = True
            return
        self.windows.append(window)
        self.search.add(window.rate, holds=window.holds, answered=window.answered)

    @property
    def holds_always(self) -> bool:
        """Return whether there are windows and all of them held."""
        return bool(self.windows) and all(window.holds for window in self.windows)

    @property
    def cpu_ms(self) -> float:
        """The mean CPU time of a request, in milliseconds."""
        return sum(window.cpu_ms for window in self.windows) / len(self.windows)


@dataclass(frozen=True)
class Later:
    """The rest of the phase after some trials: candidates that have not started, and the seconds of their starts."""

    candidates: int = 0
    start_seconds: float = 0.0


NOTHING = Later()


async def find_highest_rates(
    trials: Sequence[Trial], run: Run, *, earlier: Sequence[Trial] = (), later: Later = NOTHING
) -> None:
    """Search for the highest rate of each trial, in two rounds. Trials that are behind are dropped after the first.

    They can be behind each other and behind `earlier` trials.
    """
    tried = [trial for trial in trials if not trial.is_hopeless]
    await _round(tried, run, later, windows_after=WINDOWS * len(tried) // 2)
    tried = [trial for trial in tried if not trial.is_dropped]
    rivals = [trial for trial in earlier if trial.candidate not in run.failed]
    stay = worth_more_windows([trial.search for trial in (*rivals, *tried)])[len(rivals) :]
    for trial, stays in zip(tried, stay, strict=True):
        trial.is_dropped = not stays
    staying = [trial for trial in tried if not trial.is_dropped]
    await _round(staying, run, later)
    for end in (TRIALS_END, CONFIRMATION_END):  # all rates were too high, and there is nothing to confirm without one
        while not later.candidates and not any(trial.held for trial in (*rivals, *staying)):
            if not await _round(staying, run, later, end=end):
                break


async def _round(
    trials: Sequence[Trial], run: Run, later: Later, windows_after: int = 0, end: float = TRIALS_END
) -> bool:
    """Measure some windows of each trial, in turns. `windows_after` are left for the next round.

    Return whether there was time for all of them.
    """
    windows_after += WINDOWS * later.candidates * 3 // 2
    planned = WINDOWS * len(trials)
    for _ in range(WINDOWS):
        for trial in trials:
            # If windows are long, the last of each trial gives way.
            windows, least = planned + windows_after, max(planned - len(trials), 1) + WINDOWS * later.candidates
            planned -= 1
            if trial.is_dropped or trial.search.is_done:
                continue
            rate = trial.search.next_rate
            seconds = run.schedule.window(end, windows, rate, least=least, starts=later.start_seconds)
            if seconds is None:
                return False
            trial.add(await run.window("trial", trial.candidate, rate, seconds))
    return any(not trial.is_dropped for trial in trials)


async def measure_at(rate: float, trials: Sequence[Trial], run: Run, *, later: Later = NOTHING) -> None:
    """Measure each trial at one rate. A trial that does not hold it in the first round is dropped."""
    tried = [trial for trial in trials if not trial.is_hopeless]
    after = 2 * WINDOWS_AT_RATE * later.candidates
    for rounds in (2, 1):
        tried = [trial for trial in tried if not trial.is_dropped]
        planned = rounds * WINDOWS_AT_RATE * len(tried) + after
        for trial in tried * WINDOWS_AT_RATE:
            windows = planned
            planned -= 1
            if trial.is_dropped:
                continue
            seconds = run.schedule.window(TRIALS_END, windows, rate, least=windows // 2, starts=later.start_seconds)
            if seconds is None:
                return
            trial.add(await run.window("trial", trial.candidate, rate, seconds))
        for trial in tried:
            trial.is_dropped |= not trial.holds_always
