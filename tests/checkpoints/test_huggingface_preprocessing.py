"""Hugging Face's preprocessing: the pixels are those of the library's own processor."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from app.images.preprocess import min_decoded_size, preprocess, spans
from model_export.checkpoints.preprocessing import from_huggingface
from tests.references.draw import draw_picture

SIZES = [(500, 375), (375, 500), (1200, 90), (333, 500), (61, 640), (300, 4000), (20, 20), (224, 224), (3, 5)]
SQUASH: dict[str, Any] = {"size": {"height": 48, "width": 64}}
CROP: dict[str, Any] = {
    "size": {"shortest_edge": 73},
    "do_center_crop": True,
    "crop_size": {"height": 64, "width": 64},
}


def both(image: Image.Image, settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels of the library's own processor and those of the service."""
    processor = ViTImageProcessorPil(**settings, do_rescale=False, do_normalize=False)
    expected = processor(images=image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    recipe, _ = from_huggingface(settings, (64, 64))
    return expected.astype(int), preprocess(image, recipe).astype(int)


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_squash_is_the_source_s_own(size: tuple[int, int], resample: int) -> None:
    """Resizing to a fixed size gives the pixels of transformers, with every interpolation."""
    expected, pixels = both(draw_picture(*size), SQUASH | {"resample": resample})

    assert np.array_equal(expected, pixels)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_resizing_only_what_the_crop_keeps_is_the_source_s_own(size: tuple[int, int]) -> None:
    """Resize and crop in one step differ from two steps by rounding, 0.03 levels on average."""
    expected, pixels = both(draw_picture(*size), CROP | {"resample": 3})
    difference = np.abs(expected - pixels)

    assert difference.mean() <= 0.03
    assert difference.max() <= 3


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("settings", [SQUASH, CROP], ids=["squash", "crop"])
def test_an_image_of_the_least_size_is_not_enlarged(settings: dict[str, Any], size: tuple[int, int]) -> None:
    """The target of the resize is within the least size, also after an EXIF rotation."""
    recipe, _ = from_huggingface(settings, (64, 64))
    least = min_decoded_size(size, recipe)

    assert least == min_decoded_size(size[::-1], recipe)[::-1]
    for width, height in (least, least[::-1]):
        across, down = spans((width, height), recipe)
        assert across.full <= width
        assert down.full <= height
