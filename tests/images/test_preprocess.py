"""`app/images/preprocess.py`: pixels as in training."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from app.bundle.manifest import CenterCrop, Interpolation, Preprocessing, ShorterSide
from app.images.preprocess import preprocess


@pytest.mark.parametrize(("rounding", "left"), [("down", 1), ("half_even", 2)])
def test_the_rounding_of_an_odd_margin_is_the_source_s(rounding: str, left: int) -> None:
    """A margin of 3 pixels is cut 1 + 2 by Hugging Face and 2 + 1 by torchvision."""
    columns = np.tile(np.arange(11, dtype=np.uint8), (8, 1))
    image = Image.fromarray(np.stack([columns] * 3, axis=-1))
    recipe = Preprocessing.model_validate_json(
        f'{{"resize": {{"mode": "shorter_side", "size": 8}}, "interpolation": "nearest",'
        f' "crop": {{"height": 8, "width": 8, "rounding": "{rounding}"}},'
        ' "scale": 1, "mean": [0, 0, 0], "std": [1, 1, 1]}'
    )

    assert list(range(left, left + 8)) == preprocess(image, recipe)[0, :, 0].tolist()


@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
@pytest.mark.parametrize("size", [(65_535, 1), (1, 65_535)], ids=str)
def test_a_line_is_never_made_wide(size: tuple[int, int], interpolation: Interpolation) -> None:
    """Only the crop of a line is resized: the whole line, resized, would take gigabytes."""
    recipe = Preprocessing(
        resize=ShorterSide(mode="shorter_side", size=256),
        crop=CenterCrop(height=224, width=224, rounding="half_even"),
        interpolation=interpolation,
        scale=1 / 255,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    tracemalloc.start()
    try:
        assert preprocess(Image.new("RGB", size), recipe).shape == (224, 224, 3)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()
