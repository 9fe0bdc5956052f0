"""What a network gives for one image: engines return it, and shared memory carries it to another process."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ModelOutput(NamedTuple):
    """What an engine gives for one image."""

    logits: NDArray[np.float32]  # classes
    tokens: NDArray[np.float32] | None  # positions, channels, in raster order; only where they were asked for
