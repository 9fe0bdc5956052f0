"""What an engine gives for one image."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Output(NamedTuple):
    """What one image came to."""

    logits: NDArray[np.float32]  # classes
    tokens: NDArray[np.float32] | None  # positions, channels, in raster order; only where they were asked for
