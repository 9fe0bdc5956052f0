"""Evidence: the contribution of each position of the image to a logit. Knows numbers only.

Evidence is a class activation map (Zhou et al. 2016), and it is exact. The network applies one
linear layer to the mean of the tokens of its last map, so a logit *is* a mean over positions:

    logit = weight · mean(tokens) + bias = Σ (weight · token + bias) / positions

Nothing is estimated: each term is the contribution of one position, and the terms sum to the logit.
But through attention, a token also depends on pixels outside its own position.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from app.bundle.load import Head


def contributions(
    tokens: NDArray[np.float32], head: Head, classes: Sequence[int] | slice = slice(None)
) -> NDArray[np.float32]:
    """Return the contributions of tokens, (positions, channels), to logits: (classes, positions).

    The sum over the positions is the logit. The bias belongs to no position, so each position gets
    an equal share.
    """
    shares: NDArray[np.float32] = (head.weight[classes] @ tokens.T + head.bias[classes, None]) / np.float32(len(tokens))
    return shares
