"""Scores of predictions: accuracy with confidence intervals, calibration error, and confusions.

Arrays in, numbers out. Knows neither images nor networks.
"""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Number of bins of the calibration error, as in Guo et al. 2017.
BINS = 15

# A normal distribution has 95 % of its mass within this many standard deviations of its mean.
NORMAL_95 = 1.959963984540054

# Class indices, (images,).
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """A share of a total with its 95 % confidence interval (Wilson 1927)."""

    count: int
    of: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """The number of images of a class, and the number of correct predictions among them."""

    index: int
    images: int
    correct: int

    @property
    def top1(self) -> float:
        """The share of correct predictions."""
        return self.correct / self.images


@dataclass(frozen=True)
class Confusion:
    """The number of images of one class that were predicted as another class."""

    index: int
    taken_for: int
    images: int


def share(correct: NDArray[np.bool_]) -> Share:
    """Return the share of correct predictions, of at least one.

    The Wilson interval also holds for few predictions and for shares near 0 and 1, unlike the normal approximation.
    """
    count, of = int(correct.sum()), len(correct)
    value, z2 = count / of, NORMAL_95**2
    middle = (value + z2 / (2 * of)) / (1 + z2 / of)
    reach = NORMAL_95 * math.sqrt(value * (1 - value) / of + z2 / (4 * of**2)) / (1 + z2 / of)
    return Share(count, of, value, max(0.0, middle - reach), min(1.0, middle + reach))


def calibration_error(confidences: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy over `BINS` equal bins.

    A bin excludes its lower edge. Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3.
    """
    bins = np.ceil(confidences * BINS).astype(int).clip(1, BINS)
    gaps = (abs((correct[bins == b] - confidences[bins == b]).sum()) for b in np.unique(bins))
    return float(sum(gaps)) / len(correct)


def class_scores(targets: Indices, predictions: Indices) -> list[ClassScore]:
    """Return the score of every class that has images, the worst first, then by descending number of images."""
    images, hits = Counter(targets.tolist()), Counter(targets[targets == predictions].tolist())
    scores = [ClassScore(index, count, hits[index]) for index, count in images.items()]
    return sorted(scores, key=lambda score: (score.top1, -score.images, score.index))


def confusions(targets: Indices, predictions: Indices) -> list[Confusion]:
    """Return every confusion, the most frequent first."""
    wrong = targets != predictions
    pairs = Counter(zip(targets[wrong].tolist(), predictions[wrong].tolist(), strict=True))
    return [Confusion(*pair, images) for pair, images in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))]
