"""The image that all generated files show, and the cases of the matrix. Knows no format."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# No multiples of 8 or 16, so that rows, strips and tiles do not end at the edge of the image.
WIDTH, HEIGHT = 45, 35

_Y, _X = np.mgrid[0:HEIGHT, 0:WIDTH]
# Ramps that differ in each color and direction, so that a plane, byte or row in the wrong place
# changes the mean.
MATRIX_RGB = np.stack([_X * 255 // (WIDTH - 1), _Y * 255 // (HEIGHT - 1), 255 - _X * 3 - _Y * 2], -1).astype(np.uint8)


class Case(NamedTuple):
    """A file and its expected pixels over white, `(height, width, 3)`."""

    name: str
    data: bytes
    shown: NDArray[Any]
    kind: Mapping[str, Any]


def over_white(shown: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Return levels of 255, laid over white with an alpha of 0 to 1."""
    laid: NDArray[Any] = shown * alpha + 255 * (1 - alpha)
    return laid
