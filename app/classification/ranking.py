"""Ranking: logits to the top-k classes with their scores. Knows numbers only."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

# The function from logits to scores. The first two are the activations of a bundle.
Function = Literal["softmax", "sigmoid", "none"]

# Up to this number of classes, Python sorts. NumPy would release the GIL, and then have to wait for
# it.
MAX_SORTED_IN_PYTHON = 50


def top_k(logits: NDArray[np.float32], k: int, function: Function) -> list[tuple[int, float]]:
    """Return the k best classes of one row of logits and their scores, best first.

    Return all classes if there are fewer than k. Ties keep the order of the classes. The function
    is softmax for classes that exclude each other, and sigmoid for independent classes
    (multi-label): both are in 0 … 1. With `none`, a score is the logit.
    """
    scores = softmax(logits) if function == "softmax" else sigmoid(logits) if function == "sigmoid" else logits
    return [(index, float(scores[index])) for index in best(logits, k)]


def best(logits: NDArray[np.float32], k: int) -> list[int]:
    """Return the indices of the k largest logits. Scores would not do: saturated scores tie."""
    classes = len(logits)
    if classes <= MAX_SORTED_IN_PYTHON:
        return sorted(range(classes), key=logits.tolist().__getitem__, reverse=True)[:k]  # stable, also if reversed
    first = max(classes - k, 0)
    candidates = np.flatnonzero(logits >= np.partition(logits, first)[first])  # the k best, and ties with the last
    best: list[int] = candidates[np.argsort(-logits[candidates], kind="stable")][:k].tolist()
    return best


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return exp(x) / Σ exp(x) over one row, shifted by the maximum so that no logit overflows."""
    shifted = np.exp(logits - logits.max())
    scores: NDArray[np.float32] = shifted / shifted.sum()
    return scores


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(-x)), computed with the exp that is at most 1."""
    small = np.exp(-np.abs(logits))
    scores: NDArray[np.float32] = np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
    return scores
