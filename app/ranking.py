"""Logits → the top-k classes with their scores."""

import numpy as np
from numpy.typing import NDArray

from app.bundle import Activation


def top_k(logits: NDArray[np.float32], k: int, activation: Activation) -> list[tuple[int, float]]:
    """The k best classes of one row of logits with their scores in 0 … 1, best first; all of them if there are fewer.

    Ties keep the order of the classes.

    Softmax where the classes exclude each other, sigmoid where each is a question of its own (multi-label).
    """
    scores = softmax(logits) if activation == "softmax" else sigmoid(logits)
    best = np.argsort(-logits, kind="stable")[:k]  # by logit: scores that saturate would tie
    return [(int(index), float(scores[index])) for index in best]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """exp(x) / Σ exp(x) over one row, shifted by the maximum so that no logit overflows."""
    shifted = np.exp(logits - logits.max())
    scores: NDArray[np.float32] = shifted / shifted.sum()
    return scores


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-x)), from the side on which exp stays small."""
    small = np.exp(-np.abs(logits))
    scores: NDArray[np.float32] = np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    return scores
