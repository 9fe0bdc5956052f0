"""The network's input as a picture, and the region of the image that it shows. Knows no model, queue or HTTP."""

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.bundle.manifest import Preprocessing
from app.images.preprocess import preprocess, spans


class Region(NamedTuple):
    """The part of an upright image that preprocessing keeps, as shares of the image's width and height.

    With padding, the region is larger than the image: it begins below 0 or ends above 1.
    """

    left: float
    top: float
    width: float
    height: float


class Preview(NamedTuple):
    """A PNG of the network's input, and the region of the image that it shows."""

    png: bytes
    region: Region


def preview(image: Image.Image, recipe: Preprocessing) -> Preview:
    """Return the preview of an upright RGB image."""
    across, down = spans(image.size, recipe)
    starts, sizes = zip(*((span.start / span.full, span.size / span.full) for span in (across, down)), strict=True)
    return Preview(png_of(preprocess(image, recipe)), Region(*starts, *sizes))


def png_of(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels, `(height, width, 3)`, as a PNG."""
    file = io.BytesIO()
    # Level 3 takes a third of the time of the default level, for a tenth more bytes.
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)
    return file.getvalue()
