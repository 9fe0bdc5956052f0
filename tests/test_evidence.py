"""`app/evidence.py`: maps that add up to the logits, and a picture that paints them where they belong."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from app.bundle import Head
from app.evidence import AGAINST, FOR, OPACITY, contributions, overlay
from app.main import create_app
from app.settings import Settings
from model_export.build import build
from model_export.progress import Progress
from model_export.static import StaticSwin
from model_export.swin import Swin
from tests.fakes import encode, randomise, save_checkpoint
from tests.references.draw import draw_picture
from tests.test_static import SHAPES, config_of


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_maps_sum_to_the_logits(shape: dict[str, Any]) -> None:
    """Of the published network, within 1e-4 of their range: both versions, square or not, padded or not."""
    network = Swin(config_of(shape)).requires_grad_(requires_grad=False).eval()
    randomise(network)
    pixels = torch.randint(0, 256, (1, *shape["input_size"], 3), dtype=torch.uint8)
    logits = network(pixels.permute(0, 3, 1, 2) / 255)[0].numpy()
    with torch.inference_mode():
        _, tokens = StaticSwin(network, 1 / 255, [0.0] * 3, [1.0] * 3).eval()(pixels)

    maps = contributions(tokens[0].numpy(), Head(network.head.weight.numpy(), network.head.bias.numpy()))

    assert np.abs(maps.sum(axis=1) - logits).max() <= 1e-4 * np.ptp(logits)


def test_a_position_contributes_what_its_token_says() -> None:
    """Two positions, two classes, by hand; the bias is shared evenly."""
    tokens = np.array([[1, 0], [0, 2]], np.float32)
    head = Head(np.array([[4, 6], [-2, 1]], np.float32), np.array([1, 0], np.float32))

    expected = [[2.5, 6.5], [-1.0, 1.0]]
    assert expected == contributions(tokens, head).tolist()
    assert expected[1:] == contributions(tokens, head, [1]).tolist()


def test_a_bundle_that_is_neither_square_nor_whole_is_served_with_evidence(tmp_path: Path) -> None:
    """From checkpoint to answer: the grid is that of the last map, padding left out, and each map sums to the logit."""
    checkpoint = save_checkpoint(
        tmp_path / "checkpoint",
        image_size=(72, 104),
        size={"height": 72, "width": 104},
        depths=[2, 2, 2],
        num_heads=[2, 4, 4],
    )
    build(str(checkpoint), tmp_path / "bundle", progress=Progress(quiet=True))
    photo = encode(draw_picture(300, 200))
    with TestClient(create_app(Settings(bundle=tmp_path / "bundle", device="cpu", threads=1))) as client:
        answer = client.post("/classify?evidence=true&top_k=10", content=photo).json()["predictions"]
        picture = client.post("/classify?evidence=true&format=png", content=photo).content

    logits, maps = (np.array([row[name] for row in answer]) for name in ("logit", "evidence"))
    assert maps.shape == (10, 5, 7)
    assert np.abs(maps.sum(axis=(1, 2)) - logits).max() <= 1e-4 * np.ptp(logits)
    assert Image.open(io.BytesIO(picture)).size == (3 * 104, 3 * 72)


def painted(evidence: list[list[float]], pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The overlay on these pixels, 16 of them a side to a position."""
    return np.asarray(Image.open(io.BytesIO(overlay(pixels, np.array(evidence, np.float32), 16)))).astype(int)


def test_evidence_is_painted_where_it_is() -> None:
    """A map that reaches over the edge (40 pixels, positions of 16) is cut off there, not squeezed into the image."""
    picture = painted([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.full((40, 40, 3), 128, np.uint8))
    colour = np.ptp(picture, axis=2)
    rows, columns = np.nonzero(colour > 0.9 * colour.max())

    enlarged = 224 // 40
    assert 24 * enlarged == pytest.approx(rows.mean() + 0.5, abs=1)
    assert 24 * enlarged == pytest.approx(columns.mean() + 0.5, abs=1)


def test_for_and_against_have_their_colours() -> None:
    """The strongest evidence is nearly opaque, in the colour of its sign; weaker evidence is as much fainter."""
    picture = painted([[4, 4, 4, 4, 0, -2, -2, -2]], np.zeros((16, 128, 3), np.uint8))
    left, right = picture[0, 0], picture[0, -1]

    assert np.allclose(left, OPACITY * np.array(FOR), atol=1)
    assert np.allclose(right, OPACITY / 2 * np.array(AGAINST), atol=1)


def test_no_evidence_leaves_a_grey_image() -> None:
    """Where nothing speaks for or against the class, the image is seen as it is, without its colours."""
    image = np.asarray(draw_picture(224, 224))

    picture = painted([[0.0] * 14] * 14, image)

    assert np.array_equal(np.asarray(Image.fromarray(image).convert("L")), picture[:, :, 0])
    assert np.ptp(picture, axis=2).max() == 0


def test_small_images_are_enlarged() -> None:
    """By a whole number, so that every pixel stays a square."""
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)

    picture = painted([[0, 0, 0], [0, 0, 0]], image)

    assert picture.shape == (32 * 7, 48 * 7, 3)
    assert np.array_equal(picture[::7, ::7, 0], np.asarray(Image.fromarray(image).convert("L")))
