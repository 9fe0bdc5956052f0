"""Evidence: where on the image each part of a logit comes from, as numbers that add up.

The network puts the mean of its last map's tokens through one linear layer, so a logit *is* a mean over positions:

    logit = weight · mean(tokens) + bias = Σ (weight · token + bias) / positions

Nothing is estimated: each term of the sum is what that position contributes, and the limits sum to the logit. What they
do not say: through attention, a token has seen more of the image than the pixels it stands on.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.bundle.load import Head

Map = NDArray[np.float32]  # height, width


def contributions(
    tokens: NDArray[np.float32], head: Head, classes: Sequence[int] | slice = slice(None)
) -> NDArray[np.float32]:
    """Tokens (positions, channels) → (classes, positions), whose sums over the positions are the classes' logits.

    The bias belongs to no position: each gets an equal share of it.
    """
    shares: NDArray[np.float32] = (head.weight[classes] @ tokens.T + head.bias[classes, None]) / np.float32(len(tokens))
    return shares
