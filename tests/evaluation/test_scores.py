"""Tests of `model_export/evaluation/scores.py`, with cases that are computed by hand."""

import numpy as np
import pytest

from model_export.evaluation.scores import ClassScore, Confusion, calibration_error, class_scores, confusions, share

TARGETS = np.array([0, 0, 0, 1, 1, 2, 2, 2])
PREDICTIONS = np.array([0, 1, 1, 1, 0, 2, 2, 0])


def test_the_interval_is_the_wilson_interval() -> None:
    """For 8 of 10, the interval is 49.02 % to 94.33 % (Brown, Cai and DasGupta 2001)."""
    measured = share(np.arange(10) < 8)

    assert (measured.count, measured.of, measured.value) == (8, 10, 0.8)
    assert (measured.low, measured.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@pytest.mark.parametrize(("hits", "low", "high"), [(0, 0, 0.0713), (50, 0.9287, 1)])
def test_the_interval_of_all_or_none(hits: int, low: float, high: float) -> None:
    """For 0 or 50 of 50, the interval is 7 % wide and within 0 and 1."""
    measured = share(np.arange(50) < hits)

    assert (measured.low, measured.high) == pytest.approx((low, high), abs=1e-4)
    assert measured.low >= 0
    assert measured.high <= 1


def test_the_calibration_error_of_four_predictions() -> None:
    """The gaps are |0.5 - 0.96| for 0.95 and 0.97, which share a bin, 0.35 for 0.35, and 0.45 for 0.55."""
    confidences, correct = np.array([0.95, 0.97, 0.35, 0.55]), np.array([True, False, False, True])

    error = calibration_error(confidences, correct)

    assert error == pytest.approx((2 * 0.46 + 0.35 + 0.45) / 4)


def test_a_bin_excludes_its_lower_edge() -> None:
    """0.2 is the upper edge of the third of 15 bins, and 0.21 is in the fourth."""
    error = calibration_error(np.array([0.2, 0.21]), np.array([False, True]))

    assert error == pytest.approx((0.2 + 0.79) / 2)


def test_certain_and_correct_predictions_are_calibrated() -> None:
    """Confidence 1 with accuracy 1 and confidence 0 with accuracy 0 have no calibration error."""
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0


def test_the_worst_class_comes_first() -> None:
    """Classes are sorted by their share of correct predictions."""
    scores = class_scores(TARGETS, PREDICTIONS)

    assert scores == [ClassScore(0, 3, 1), ClassScore(1, 2, 1), ClassScore(2, 3, 2)]
    assert [score.top1 for score in scores] == [1 / 3, 1 / 2, 2 / 3]


def test_the_most_frequent_confusion_comes_first() -> None:
    """Confusions are sorted by their number; correct predictions are not counted."""
    assert confusions(TARGETS, PREDICTIONS) == [Confusion(0, 1, 2), Confusion(1, 0, 1), Confusion(2, 0, 1)]
