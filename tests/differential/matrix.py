"""What the generated images show, and how a case of the matrix is written down. Knows no format."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 45, 35
"""No multiple of 8 or 16: rows, strips and tiles do not end where the image does."""

_Y, _X = np.mgrid[0:HEIGHT, 0:WIDTH]
MATRIX_RGB = np.stack([_X * 255 // (WIDTH - 1), _Y * 255 // (HEIGHT - 1), 255 - _X * 3 - _Y * 2], -1).astype(np.uint8)
"""Ramps, different in each color and to each side: a plane, a byte or a row in the wrong place changes the mean."""


class Case(NamedTuple):
    """A file, and the pixels (height, width, 3) that a viewer shows of it over white."""

    name: str
    data: bytes
    shown: NDArray[Any]
    kind: Mapping[str, Any]


def over_white(shown: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Levels of 255 under an alpha of 0 to 1."""
    laid: NDArray[Any] = shown * alpha + 255 * (1 - alpha)
    return laid
