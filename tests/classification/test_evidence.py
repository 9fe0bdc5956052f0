"""`app/classification/evidence.py`: what each position contributes to a logit."""

import numpy as np

from app.bundle.load import Head
from app.classification.evidence import contributions


def test_a_position_contributes_what_its_token_says() -> None:
    """Two positions, two classes, by hand; the bias is shared evenly."""
    tokens = np.array([[1, 0], [0, 2]], np.float32)
    head = Head(np.array([[4, 6], [-2, 1]], np.float32), np.array([1, 0], np.float32))

    expected = [[2.5, 6.5], [-1.0, 1.0]]
    assert expected == contributions(tokens, head).tolist()
    assert expected[1:] == contributions(tokens, head, [1]).tolist()
