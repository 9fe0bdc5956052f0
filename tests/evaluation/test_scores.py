"""`model_export/evaluation/scores.py`, on cases small enough to do by hand."""

import numpy as np
import pytest

from model_export.evaluation.scores import ClassScore, Confusion, calibration_error, class_scores, confusions, share

TRUTH = np.array([0, 0, 0, 1, 1, 2, 2, 2])
BEST = np.array([0, 1, 1, 1, 0, 2, 2, 0])


def test_the_interval_is_wilson_s() -> None:
    """8 of 10: 49.02 % to 94.33 %, the textbook's example (Brown, Cai and DasGupta 2001)."""
    measured = share(np.arange(10) < 8)

    assert (measured.count, measured.of, measured.value) == (8, 10, 0.8)
    assert (measured.low, measured.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@pytest.mark.parametrize(("hits", "low", "high"), [(0, 0, 0.0713), (50, 0.9287, 1)])
def test_all_or_none_of_fifty_is_not_certain(hits: int, low: float, high: float) -> None:
    """The interval of 50 images reaches 7 % away from an end, and never beyond it."""
    measured = share(np.arange(50) < hits)

    assert (measured.low, measured.high) == pytest.approx((low, high), abs=1e-4)
    assert measured.low >= 0
    assert measured.high <= 1


def test_the_calibration_error_of_four_answers() -> None:
    """0.95 and 0.97 share a bin, one of them right: gap |0.5 - 0.96|; 0.35 wrong: 0.35; 0.55 right: 0.45."""
    confidences, correct = np.array([0.95, 0.97, 0.35, 0.55]), np.array([True, False, False, True])

    error = calibration_error(confidences, correct)

    assert error == pytest.approx((2 * 0.46 + 0.35 + 0.45) / 4)


def test_a_bin_does_not_hold_its_lower_edge() -> None:
    """0.2 is the upper edge of the third of 15 bins, so it is not averaged with 0.21, which is in the fourth."""
    error = calibration_error(np.array([0.2, 0.21]), np.array([False, True]))

    assert error == pytest.approx((0.2 + 0.79) / 2)


def test_certain_answers_that_are_right_are_calibrated() -> None:
    """Confidence 1 and accuracy 1 leave no gap; neither do 0 and 0."""
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0


def test_the_worst_class_comes_first() -> None:
    """By the share that is right; a class without images is not there."""
    scores = class_scores(TRUTH, BEST)

    assert scores == [ClassScore(0, 3, 1), ClassScore(1, 2, 1), ClassScore(2, 3, 2)]
    assert [score.top1 for score in scores] == [1 / 3, 1 / 2, 2 / 3]


def test_the_most_frequent_confusion_comes_first() -> None:
    """0 was taken for 1 twice, 1 and 2 for 0 once each; what is right is no confusion."""
    assert confusions(TRUTH, BEST) == [Confusion(0, 1, 2), Confusion(1, 0, 1), Confusion(2, 0, 1)]
