"""An image with the evidence for a class painted over it. Knows no model, queue or HTTP."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.images.preview import png_of

# The contribution of each position to the logit of a class, (height, width).
Map = NDArray[np.float32]

# Vermilion and blue of Okabe and Ito's palette, which can be distinguished with any kind of color
# vision.
FOR, AGAINST = (213, 94, 0), (0, 114, 178)

# The opacity of the strongest evidence. The image stays visible below it.
OPACITY = 0.8

# Pixels. Smaller images are enlarged by a whole number, so that details are visible.
MIN_SIDE = 224


def overlay(pixels: NDArray[np.uint8], evidence: Map, stride: int) -> bytes:
    """Return a PNG of the network's input, `(height, width, 3)`, with the evidence over it.

    Evidence for the class and evidence against it have one color each. The image is gray, so that
    its own colors are not mistaken for evidence. Each position of the map is painted over its
    `stride`² pixels, up to the image's edge.
    """
    height, width, _ = pixels.shape
    enlarged = max(1, MIN_SIDE // min(height, width))
    size = width * enlarged, height * enlarged
    gray = np.asarray(Image.fromarray(pixels).convert("L").resize(size, Image.Resampling.NEAREST))[:, :, None]
    box = (0, 0, width / stride, height / stride)
    heat = np.asarray(Image.fromarray(evidence).resize(size, Image.Resampling.BILINEAR, box=box))[:, :, None]
    strongest = np.abs(evidence).max() or 1.0  # if all evidence is zero, nothing is painted
    opacity = OPACITY * np.abs(heat) / strongest
    painted = gray + opacity * (np.where(heat > 0, FOR, AGAINST) - gray)
    return png_of(painted.round().astype(np.uint8))
