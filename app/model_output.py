"""The output of a network for one image. Knows no engine and no queue."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ModelOutput(NamedTuple):
    """The output of an engine for one image."""

    logits: NDArray[np.float32]  # (classes,)
    tokens: NDArray[np.float32] | None  # (positions, channels), in raster order; None unless requested
