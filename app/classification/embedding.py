"""The embedding of an image: the vector to which the last layer of the network is applied. Knows numbers only."""

import numpy as np
from numpy.typing import NDArray


def mean_token(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of the tokens of one image, (positions, channels), as a vector of (channels,).

    The source libraries call it pooled features: `pooler_output` of transformers, `forward_head(…, pre_logits=True)` of
    timm. The logits are weight · mean token + bias (Liu et al. 2021, section 3.1).
    """
    mean: NDArray[np.float32] = tokens.mean(axis=0)
    return mean
