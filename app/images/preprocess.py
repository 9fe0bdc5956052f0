"""RGB image → pixels, exactly as the checkpoint was trained. Normalization is not here: it is in the network's weights.

Pillow's antialiased resampling is the reference; it computes in integers, so the same image gives the same pixels on
every machine. Only what the crop keeps is resized: the crop is mapped back onto the image through the *rounded* full
size, which samples at the very positions a full resize would. So a panorama is never made into a wide one first.
"""

import math
from typing import NamedTuple, assert_never

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.bundle.manifest import CenterCrop, Cover, Pad, Preprocessing, ShorterSide, Squash

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Span(NamedTuple):
    """One axis of the result, in positions of the resized image."""

    full: int  # what the whole image is resized to
    start: int  # first position kept; negative where the result begins with filling
    size: int  # positions of the result

    @property
    def kept(self) -> tuple[int, int]:
        """First position of the resized image that is in the result, and the one after the last."""
        return max(self.start, 0), min(self.start + self.size, self.full)

    def nearest(self, length: int) -> NDArray[np.intp]:
        """The position of the image, of this length, that each kept position of the result shows.

        Added up step by step, as Pillow does: a product would fall on the other side of a pixel's edge here and there.
        """
        first, last = self.kept
        steps = np.full(last, length / self.full)
        steps[0] /= 2
        return np.cumsum(steps)[first:].astype(np.intp)


def preprocess(image: Image.Image, recipe: Preprocessing) -> NDArray[np.uint8]:
    """RGB image → pixels (height, width, 3) of the network's input size."""
    across, down = _spans(image.size, recipe)
    if recipe.interpolation == "nearest":
        kept = Image.fromarray(np.asarray(image)[down.nearest(image.height)][:, across.nearest(image.width)])
    else:
        kept = _resampled(image, across, down, RESAMPLING[recipe.interpolation])
    return np.asarray(_filled(kept, across, down, recipe))


def preprocess_in_steps(image: Image.Image, recipe: Preprocessing) -> NDArray[np.uint8]:
    """The same, as training code writes it: resize the whole image, then crop. What `preprocess` is compared with."""
    across, down = _spans(image.size, recipe)
    (left, right), (top, bottom) = across.kept, down.kept
    whole = image.resize((across.full, down.full), RESAMPLING[recipe.interpolation])
    return np.asarray(_filled(whole.crop((left, top, right, bottom)), across, down, recipe))


def _resampled(image: Image.Image, across: Span, down: Span, resampling: Image.Resampling) -> Image.Image:
    """The kept part of the resized image, resampled axis after axis in the order in which the whole would be."""
    (left, right), (top, bottom) = across.kept, down.kept
    x, y = image.width / across.full, image.height / down.full
    size, box = (right - left, bottom - top), (left * x, top * y, right * x, bottom * y)
    columns_first = not _rows_first(image.size, (across.full, down.full))
    if columns_first is not _rows_first(image.size, size):
        return image.resize(size, resampling, box=box)
    if columns_first:
        first, last = _within(image.height, box[1], box[3], y)
        part = image.crop((0, first, image.width, last))
        part = part.resize((size[0], last - first), resampling, box=(box[0], 0, box[2], last - first))
        return part.resize(size, resampling, box=(0, box[1] - first, size[0], box[3] - first))
    first, last = _within(image.width, box[0], box[2], x)
    part = image.crop((first, 0, last, image.height))
    part = part.resize((last - first, size[1]), resampling, box=(0, box[1], last - first, box[3]))
    return part.resize(size, resampling, box=(box[0] - first, 0, box[2] - first, size[1]))


def _rows_first(size: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Whether Pillow, from 13 on, resamples down before it resamples across. Between the two it rounds to bytes.

    It compares the sizes of image and result, whatever the box: of a tall image it would do a part in another order.
    """
    columns, rows = size[0] - wanted[0], size[1] - wanted[1]
    return rows > 0 and rows > 2 * columns


def _within(length: int, start: float, end: float, scale: float) -> tuple[int, int]:
    """The positions that a resampled span reads: no filter reaches further than 3 positions of the coarser side."""
    reach = 3 * max(scale, 1) + 1
    return max(math.floor(start - reach), 0), min(math.ceil(end + reach), length)


def _filled(kept: Image.Image, across: Span, down: Span, recipe: Preprocessing) -> Image.Image:
    """With the color of the padding around it, if it does not fill the result."""
    size = across.size, down.size
    if kept.size == size or not isinstance(recipe.resize, Pad):
        return kept
    canvas = Image.new("RGB", size, recipe.resize.fill)
    canvas.paste(kept, (across.kept[0] - across.start, down.kept[0] - down.start))
    return canvas


def least_size(size: tuple[int, int], recipe: Preprocessing) -> tuple[int, int]:
    """(width, height) below which an image of this size would be enlarged, also if it has still to be turned."""
    (width, height), (turned_height, turned_width) = (_resized(each, recipe.resize) for each in (size, size[::-1]))
    return max(width, turned_width), max(height, turned_height)


def _spans(size: tuple[int, int], recipe: Preprocessing) -> tuple[Span, Span]:
    """Across and down."""
    full = _resized(size, recipe.resize)
    across, down = (Span(*span) for span in zip(full, *_cropped(full, recipe), strict=True))
    return across, down


def _resized(size: tuple[int, int], resize: Squash | ShorterSide | Cover | Pad) -> tuple[int, int]:
    """Pillow's order: (width, height) → (width, height)."""
    width, height = size
    match resize:
        case Squash():
            return resize.width, resize.height
        case ShorterSide():
            shorter = min(width, height)
            return int(resize.size * width / shorter), int(resize.size * height / shorter)
        case Cover():
            ratio = min(width / resize.width, height / resize.height)
        case Pad():
            ratio = max(width / resize.width, height / resize.height)
        case _:
            assert_never(resize)
    return max(round(width / ratio), 1), max(round(height / ratio), 1)


def _cropped(full: tuple[int, int], recipe: Preprocessing) -> tuple[tuple[int, int], tuple[int, int]]:
    """(left, top) and (width, height) of the result on the resized image."""
    match recipe.resize, recipe.crop:
        case Pad() as pad, None:
            crop = CenterCrop(height=pad.height, width=pad.width, rounding="half_even")
        case _, None:
            return (0, 0), full
        case _, CenterCrop() as crop:
            pass
    margins = full[0] - crop.width, full[1] - crop.height
    left, top = (_half(margin, crop) for margin in margins)
    return (left, top), (crop.width, crop.height)


def _half(margin: int, crop: CenterCrop) -> int:
    if margin < 0:  # to be filled: the larger half is on the far side
        return -(-margin // 2)
    return margin // 2 if crop.rounding == "down" else round(margin / 2)
