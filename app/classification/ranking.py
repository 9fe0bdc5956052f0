"""Logits → the top-k classes with their scores."""

import numpy as np
from numpy.typing import NDArray

from app.bundle.manifest import Activation

FEW = 50
"""Classes that are sorted without NumPy, which would let go of the interpreter, and then have to wait for it."""


def top_k(logits: NDArray[np.float32], k: int, activation: Activation) -> list[tuple[int, float]]:
    """The k best classes of one row of logits with their scores in 0 … 1, best first; all of them if there are fewer.

    Ties keep the order of the classes.

    Softmax where the classes exclude each other, sigmoid where each is a question of its own (multi-label).
    """
    scores = softmax(logits) if activation == "softmax" else sigmoid(logits)
    return [(index, float(scores[index])) for index in _best(logits, k)]


def _best(logits: NDArray[np.float32], k: int) -> list[int]:
    """By logit: scores that saturate would tie."""
    classes = len(logits)
    if classes <= FEW:
        return sorted(range(classes), key=logits.tolist().__getitem__, reverse=True)[:k]  # stable, reversed or not
    first = max(classes - k, 0)
    candidates = np.flatnonzero(logits >= np.partition(logits, first)[first])  # the k best, and ties of the last
    best: list[int] = candidates[np.argsort(-logits[candidates], kind="stable")][:k].tolist()
    return best


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
