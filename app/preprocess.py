"""RGB image → pixels, exactly as the checkpoint was trained. Normalisation is not here: it is in the network's weights.

Pillow's antialiased resampling is the reference; it computes in integers, so the same image gives the same pixels on
every machine. Only what the crop keeps is resized: the crop is mapped back onto the image through the *rounded* full
size, which samples at the very positions a full resize would.
"""

from typing import assert_never

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.bundle import CenterCrop, Preprocessing, ShorterSide, Squash

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def preprocess(image: Image.Image, recipe: Preprocessing) -> NDArray[np.uint8]:
    """RGB image → pixels (height, width, 3) of the network's input size."""
    full = _resized(image.size, recipe.resize)
    left, top, width, height = _cropped(full, recipe.crop)
    box = (
        left * image.width / full[0],
        top * image.height / full[1],
        (left + width) * image.width / full[0],
        (top + height) * image.height / full[1],
    )
    return np.asarray(image.resize((width, height), RESAMPLING[recipe.interpolation], box=box))


def _resized(size: tuple[int, int], resize: Squash | ShorterSide) -> tuple[int, int]:
    """Pillow's order: (width, height) → (width, height)."""
    match resize:
        case Squash():
            return resize.width, resize.height
        case ShorterSide():
            width, height = size
            shorter = min(width, height)
            return int(resize.size * width / shorter), int(resize.size * height / shorter)
        case _:
            assert_never(resize)


def _cropped(full: tuple[int, int], crop: CenterCrop | None) -> tuple[int, int, int, int]:
    """Left, top, width and height of what the crop keeps of the resized image."""
    if crop is None:
        return 0, 0, *full
    margins = full[0] - crop.width, full[1] - crop.height
    left, top = (margin // 2 if crop.rounding == "down" else round(margin / 2) for margin in margins)
    return left, top, crop.width, crop.height
