"""How good answers are: shares with their uncertainty, calibration, and which classes are taken for which.

Knows neither images nor networks: arrays in, numbers out.
"""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Of the calibration error, as in Guo et al. 2017."""

NORMAL_95 = 1.959963984540054
"""Standard deviations to either side that hold 95 % of a normal distribution."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """A part of a whole, and the interval in which it lies with 95 % confidence (Wilson 1927)."""

    count: int
    of: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """One class: how many images of it there were, and for how many it came first."""

    index: int
    images: int
    correct: int

    @property
    def top1(self) -> float:
        """The share of them."""
        return self.correct / self.images


@dataclass(frozen=True)
class Confusion:
    """How often images of one class were taken for another."""

    index: int
    taken_for: int
    images: int


def share(correct: NDArray[np.bool_]) -> Share:
    """Of at least one answer. Unlike the textbook's interval, Wilson's holds for few answers and for shares near 1."""
    count, of = int(correct.sum()), len(correct)
    value, z2 = count / of, NORMAL_95**2
    middle = (value + z2 / (2 * of)) / (1 + z2 / of)
    reach = NORMAL_95 * math.sqrt(value * (1 - value) / of + z2 / (4 * of**2)) / (1 + z2 / of)
    return Share(count, of, value, max(0.0, middle - reach), min(1.0, middle + reach))


def calibration_error(confidences: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy, over 15 bins of equal width.

    Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3; a bin does not hold its lower edge.
    """
    bins = np.ceil(confidences * BINS).astype(int).clip(1, BINS)
    gaps = (abs((correct[bins == b] - confidences[bins == b]).sum()) for b in np.unique(bins))
    return float(sum(gaps)) / len(correct)


def class_scores(device_report: Indices, best: Indices) -> list[ClassScore]:
    """Of every class that has images, the worst first; among equals the one with more images."""
    images, hits = Counter(device_report.tolist()), Counter(device_report[device_report == best].tolist())
    scores = [ClassScore(index, count, hits[index]) for index, count in images.items()]
    return sorted(scores, key=lambda score: (score.top1, -score.images, score.index))


def confusions(device_report: Indices, best: Indices) -> list[Confusion]:
    """Every pair of classes where the one was taken for the other, the most frequent first."""
    wrong = device_report != best
    pairs = Counter(zip(device_report[wrong].tolist(), best[wrong].tolist(), strict=True))
    return [Confusion(*pair, images) for pair, images in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))]
