"""`app/images/overlay.py`: places and colors of painted evidence."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.images.overlay import AGAINST, FOR, OPACITY, overlay
from tests.references.draw import draw_picture


def painted(evidence: list[list[float]], pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the overlay on these pixels; a position has 16 pixels a side."""
    return np.asarray(Image.open(io.BytesIO(overlay(pixels, np.array(evidence, np.float32), 16)))).astype(int)


def test_evidence_is_painted_where_it_is() -> None:
    """A map that extends over the edge (40 pixels, positions of 16) is cut off, not squeezed into the image."""
    picture = painted([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.full((40, 40, 3), 128, np.uint8))
    color = np.ptp(picture, axis=2)
    rows, columns = np.nonzero(color > 0.9 * color.max())

    enlarged = 224 // 40
    assert 24 * enlarged == pytest.approx(rows.mean() + 0.5, abs=1)
    assert 24 * enlarged == pytest.approx(columns.mean() + 0.5, abs=1)


def test_for_and_against_have_their_colors() -> None:
    """Evidence has the color of its sign, and an opacity in proportion to its strength."""
    picture = painted([[4, 4, 4, 4, 0, -2, -2, -2]], np.zeros((16, 128, 3), np.uint8))
    left, right = picture[0, 0], picture[0, -1]

    assert np.allclose(left, OPACITY * np.array(FOR), atol=1)
    assert np.allclose(right, OPACITY / 2 * np.array(AGAINST), atol=1)


def test_no_evidence_leaves_a_gray_image() -> None:
    """Without any evidence, the overlay is the image in gray."""
    image = np.asarray(draw_picture(224, 224))

    picture = painted([[0.0] * 14] * 14, image)

    assert np.array_equal(np.asarray(Image.fromarray(image).convert("L")), picture[:, :, 0])
    assert np.ptp(picture, axis=2).max() == 0


def test_small_images_are_enlarged() -> None:
    """A small image is enlarged by a whole number, so that each pixel stays a square."""
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)

    picture = painted([[0, 0, 0], [0, 0, 0]], image)

    assert picture.shape == (32 * 7, 48 * 7, 3)
    assert np.array_equal(picture[::7, ::7, 0], np.asarray(Image.fromarray(image).convert("L")))
