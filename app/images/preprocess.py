"""Preprocessing: an RGB image to pixels, as in training. Knows nothing about the network.

The result is not normalized: the network's first layer does that.

The reference is Pillow's antialiased resampling. Pillow computes in integers, so an image gives the
same pixels on every machine.

Only the part that the crop keeps is resized. The crop is mapped back onto the image through the
*rounded* full size, so the samples are at the same positions as in a full resize. A panorama never
becomes a huge intermediate image.
"""

import math
from typing import NamedTuple, assert_never

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.bundle.manifest import CenterCrop, Cover, Pad, Preprocessing, ShorterSide, Squash
from app.images.decode import Limits, decode_image

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

    full: int  # length of the whole image after the resize
    start: int  # first kept position; negative if the result begins with padding
    size: int  # length of the result

    @property
    def kept(self) -> tuple[int, int]:
        """The kept range of the resized image: its first position, and the one after the last."""
        return max(self.start, 0), min(self.start + self.size, self.full)

    def nearest(self, length: int) -> NDArray[np.intp]:
        """Return the nearest position in an image of this length for each kept position.

        Add the steps one after the other, as Pillow does. A product would round to another pixel in
        some places.
        """
        first, last = self.kept
        steps = np.full(last, length / self.full)
        steps[0] /= 2
        return np.cumsum(steps)[first:].astype(np.intp)


def decode_pixels(data: bytes, recipe: Preprocessing, limits: Limits | None = None) -> NDArray[np.uint8]:
    """Return the network's input for an encoded image: `decode_image`, then `preprocess`.

    Raises:
        UnsupportedImage, UnreadableImage, ImageTooLarge: see `decode_image`.
    """
    return preprocess(decode_image(data, limits), recipe)


def preprocess(image: Image.Image, recipe: Preprocessing) -> NDArray[np.uint8]:
    """Return the pixels of an RGB image, `(height, width, 3)`, in the network's input size."""
    across, down = spans(image.size, recipe)
    if recipe.interpolation == "nearest":
        kept = Image.fromarray(np.asarray(image)[down.nearest(image.height)][:, across.nearest(image.width)])
    else:
        kept = _resampled(image, across, down, RESAMPLING[recipe.interpolation])
    return np.asarray(_padded(kept, across, down, recipe))


def preprocess_in_steps(image: Image.Image, recipe: Preprocessing) -> NDArray[np.uint8]:
    """Resize the whole image, then crop, as training code does: the reference for `preprocess`."""
    across, down = spans(image.size, recipe)
    (left, right), (top, bottom) = across.kept, down.kept
    whole = image.resize((across.full, down.full), RESAMPLING[recipe.interpolation])
    return np.asarray(_padded(whole.crop((left, top, right, bottom)), across, down, recipe))


def _resampled(image: Image.Image, across: Span, down: Span, resampling: Image.Resampling) -> Image.Image:
    """Return the kept part of the resized image.

    The axes are resampled in the order that Pillow takes for the whole image.
    """
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
    """Return whether Pillow (13 and later) resamples the columns of pixels before the rows.

    The order matters, because Pillow rounds to bytes in between. Pillow decides by the sizes of
    image and result, whatever the box is. So it would resample a part of a tall image in another
    order than the whole.
    """
    columns, rows = size[0] - wanted[0], size[1] - wanted[1]
    return rows > 0 and rows > 2 * columns


def _within(length: int, start: float, end: float, scale: float) -> tuple[int, int]:
    """Return the range of positions that a resampled span reads.

    No filter reaches further than 3 positions of the coarser side.
    """
    reach = 3 * max(scale, 1) + 1
    return max(math.floor(start - reach), 0), min(math.ceil(end + reach), length)


def _padded(part: Image.Image, across: Span, down: Span, recipe: Preprocessing) -> Image.Image:
    """Place the part on a canvas of the fill color, if the recipe pads and the part is smaller than the result."""
    size = across.size, down.size
    # Without padding, the part has the size of the result: the manifest checks the crop.
    if part.size == size or not isinstance(recipe.resize, Pad):
        return part
    canvas = Image.new("RGB", size, recipe.resize.fill)
    canvas.paste(part, (across.kept[0] - across.start, down.kept[0] - down.start))
    return canvas


def min_decoded_size(size: tuple[int, int], recipe: Preprocessing) -> tuple[int, int]:
    """Return the smallest (width, height) to decode an image at, without enlarging it later.

    The result also holds if EXIF turns the image after decoding.
    """
    (width, height), (turned_height, turned_width) = (_resized(each, recipe.resize) for each in (size, size[::-1]))
    return max(width, turned_width), max(height, turned_height)


def spans(size: tuple[int, int], recipe: Preprocessing) -> tuple[Span, Span]:
    """Return the spans of the two axes, across and down, for an image of (width, height)."""
    full = _resized(size, recipe.resize)
    across, down = (Span(*span) for span in zip(full, *_cropped(full, recipe), strict=True))
    return across, down


def _resized(size: tuple[int, int], resize: Squash | ShorterSide | Cover | Pad) -> tuple[int, int]:
    """Return the (width, height) of the whole image after the resize, from its (width, height)."""
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
    """Return (left, top) and (width, height) of the result on the resized image."""
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
    if margin < 0:  # padding: the larger half is on the right or at the bottom
        return -(-margin // 2)
    return margin // 2 if crop.rounding == "down" else round(margin / 2)
