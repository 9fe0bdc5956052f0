"""The search for the highest rate that holds, window by window. Measures nothing."""

import math
from collections.abc import Sequence

# The factors of the next rate after one window that held, and after more of them. Then the prediction was far too low.
GROW, GROW_MORE = 1.4, 2.0

# The first window is at this share of the predicted rate, which is an upper bound.
FIRST_SHARE = 0.8

# After a window that failed, the next rate is at this share of the rate that was answered, within these shares of
# the rate that failed.
ANSWERED_SHARE, MIN_SHARE, MAX_SHARE = 0.9, 0.3, 0.9

# After further ones, the service is not overloaded, but some requests are late. Then the rate that was answered says
# nothing, and the next one is at most at this share.
RETREAT_SHARE = 0.65

# The search ends when the bounds are this close.
PRECISION = 1.05

# The minimum number of searches that stay after the first round.
MIN_SURVIVORS = 2


class Bisection:
    """Bounds of the highest rate that holds, in requests per second.

    Args:
        predicted: the rate to begin with, before `FIRST_SHARE`.
    """

    def __init__(self, predicted: float) -> None:
        self._predicted = predicted
        self._held, self._failed = list[float](), list[float]()  # rates
        self._answered = math.inf  # requests per second, in the window that failed last

    @property
    def held(self) -> float:
        """The highest rate that held; 0 if none did."""
        return max(self._held, default=0.0)

    @property
    def failed(self) -> float:
        """The lowest rate that failed; infinite if none did."""
        return min(self._failed, default=math.inf)

    @property
    def next_rate(self) -> float:
        """The rate of the next window."""
        if not self._held and not self._failed:
            return FIRST_SHARE * self._predicted
        if not self._held:
            most = MAX_SHARE if len(self._failed) == 1 else RETREAT_SHARE
            return min(max(ANSWERED_SHARE * self._answered, MIN_SHARE * self.failed), most * self.failed)
        if not self._failed:
            return (GROW if len(self._held) == 1 else GROW_MORE) * self.held
        return math.sqrt(self.held * self.failed)

    @property
    def is_done(self) -> bool:
        """Return whether the bounds are so close that another window would not move the rate."""
        return self.failed <= PRECISION * self.held

    def add(self, rate: float, *, holds: bool, answered: float) -> None:
        """Take the result of a window. `answered` is the rate of requests that were answered with 200.

        Windows of one process differ by noise. So a window drops the earlier ones that it contradicts.
        """
        if holds:
            self._held.append(rate)
            self._failed = [each for each in self._failed if each > rate]
        else:
            self._failed.append(rate)
            self._held = [each for each in self._held if each < rate]
            self._answered = answered


def worth_more_windows(searches: Sequence[Bisection]) -> list[bool]:
    """Return for each search whether it stays: successive halving, by the results of the first round.

    A search is behind by more than its spread if its upper bound is not above the best rate that held. Of the others,
    the better half stays, and at least `MIN_SURVIVORS`.
    """
    best = max((each.held for each in searches), default=0.0)
    ahead = [each.failed > best for each in searches]
    ranked = sorted(range(len(searches)), key=lambda index: (ahead[index], searches[index].held), reverse=True)
    kept = set(ranked[: max(math.ceil(len(searches) / 2), MIN_SURVIVORS)])
    return [ahead[index] and index in kept for index in range(len(searches))]
