"""`app/classification/evidence.py`: contributions of positions to a logit."""

import numpy as np

from app.bundle.load import Head
from app.classification.evidence import contributions


def test_contributions_are_those_of_the_tokens() -> None:
    """Contributions of two positions to two classes are as computed by hand, each with half of the bias."""
    tokens = np.array([[1, 0], [0, 2]], np.float32)
    head = Head(np.array([[4, 6], [-2, 1]], np.float32), np.array([1, 0], np.float32))

    expected = [[2.5, 6.5], [-1.0, 1.0]]
    assert expected == contributions(tokens, head).tolist()
    assert expected[1:] == contributions(tokens, head, [1]).tolist()
