"""Tests of `app/images/preview.py`: the region of an image that preprocessing keeps."""

import io

import numpy as np
import pytest
from PIL import Image

from app.bundle.manifest import CenterCrop, Cover, Pad, Preprocessing, ShorterSide, Squash
from app.images.preprocess import preprocess
from app.images.preview import preview
from tests.references.draw import draw_picture

SQUASH = Squash(mode="squash", height=32, width=32)
SHORTER = ShorterSide(mode="shorter_side", size=64)
CROP = CenterCrop(height=32, width=32, rounding="down")
COVER = Cover(mode="cover", height=32, width=32)
PAD = Pad(mode="pad", height=32, width=32, fill=(0, 0, 0))


def recipe(resize: Squash | ShorterSide | Cover | Pad, crop: CenterCrop | None = None) -> Preprocessing:
    gray = (0.5, 0.5, 0.5)
    return Preprocessing(resize=resize, crop=crop, interpolation="bilinear", scale=1 / 255, mean=gray, std=gray)


@pytest.mark.parametrize(
    ("size", "steps", "region"),
    [
        ((100, 50), recipe(SQUASH), (0, 0, 1, 1)),
        ((100, 50), recipe(SHORTER, CROP), (0.375, 0.25, 0.25, 0.5)),
        ((50, 100), recipe(SHORTER, CROP), (0.25, 0.375, 0.5, 0.25)),
        ((100, 50), recipe(COVER, CROP), (0.25, 0, 0.5, 1)),
        ((100, 50), recipe(PAD), (0, -0.5, 1, 2)),
    ],
    ids=["squash", "wide", "tall", "cover", "pad"],
)
def test_the_region_is_what_the_picture_shows(
    size: tuple[int, int], steps: Preprocessing, region: tuple[float, ...]
) -> None:
    """A crop keeps a part of the image; padding shows more than the image."""
    assert preview(Image.new("RGB", size), steps).region == pytest.approx(region)


def test_the_picture_has_the_pixels() -> None:
    """The PNG has the pixels of `preprocess`."""
    image, steps = draw_picture(100, 50), recipe(SHORTER, CROP)
    shown = np.asarray(Image.open(io.BytesIO(preview(image, steps).png)))

    assert np.array_equal(shown, preprocess(image, steps))


def test_the_region_cut_from_the_image_is_the_picture() -> None:
    """The part of the image that the region names looks like the picture."""
    image, steps = draw_picture(400, 200), recipe(SHORTER, CROP)
    shown = preview(image, steps)
    left, top, width, height = shown.region
    box = (left * 400, top * 200, (left + width) * 400, (top + height) * 200)
    cut = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR, box=box)).astype(float)

    assert np.abs(cut - np.asarray(Image.open(io.BytesIO(shown.png)))).mean() < 4
