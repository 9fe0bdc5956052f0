"""`app/classification/ranking.py`: logits become scores and an order."""

import numpy as np
import pytest

from app.classification.ranking import MAX_SORTED_IN_PYTHON, sigmoid, softmax, top_k


def test_best_first() -> None:
    """The k best come in the order of their scores."""
    ranked = top_k(np.array([1, 3, 2], np.float32), 2, "softmax")

    assert [index for index, _ in ranked] == [1, 2]
    assert pytest.approx([0.66524, 0.24473], abs=1e-5) == [score for _, score in ranked]


def test_ties_keep_the_order_of_the_classes() -> None:
    """The lower class number comes first of equal logits."""
    assert [index for index, _ in top_k(np.array([5, 1, 5], np.float32), 3, "softmax")] == [0, 2, 1]


# Classes, enough for NumPy to sort them.
MANY = 2 * MAX_SORTED_IN_PYTHON


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, MANY - 1, MANY])
def test_many_classes_are_ranked_as_few_are(k: int) -> None:
    """If the k-th of many classes ties with others, the lower class numbers come first."""
    logits = np.zeros(MANY, np.float32)
    logits[[90, 10, 40]], logits[[70, 20, 30, 60]] = 3, 1

    ranked = [index for index, _ in top_k(logits, k, "softmax")]

    first = [10, 40, 90, 20, 30, 60, 70]
    assert [*first, *(index for index in range(MANY) if index not in first)][:k] == ranked


@pytest.mark.parametrize("k", [MANY + 1, 10 * MANY])
def test_more_than_many_gives_all(k: int) -> None:
    """A k above the number of many classes is no error."""
    assert list(range(MANY))[::-1] == [index for index, _ in top_k(np.arange(MANY, dtype=np.float32), k, "sigmoid")]


def test_more_than_there_are_gives_all() -> None:
    """A k above the number of classes is no error."""
    assert len(top_k(np.zeros(3, np.float32), 10, "softmax")) == 3


def test_softmax_does_not_overflow() -> None:
    """Logits far apart, with the largest magnitude on the negative side, give finite scores that sum to one."""
    scores = softmax(np.array([-60_000, 40, 39], np.float32))

    assert np.isfinite(scores).all()
    assert pytest.approx(1) == scores.sum()


def test_sigmoid_does_not_overflow() -> None:
    """Large logits of either sign saturate at 0 and 1."""
    assert sigmoid(np.array([-1e4, 0, 1e4], np.float32)).tolist() == [0, 0.5, 1]


def test_multi_label_scores_are_independent() -> None:
    """With sigmoid, two classes can both have a high score."""
    assert all(score > 0.99 for _, score in top_k(np.array([9, 9], np.float32), 2, "sigmoid"))
