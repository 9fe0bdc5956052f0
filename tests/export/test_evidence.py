"""Tests of the evidence of exported networks."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from app.bundle.load import Head
from app.classification.evidence import contributions
from app.main import create_app
from app.settings import Settings
from model_export.build import build
from model_export.console import Progress
from model_export.network.static import StaticSwin
from model_export.network.swin import Swin
from tests.network.test_static import SHAPES, config_of
from tests.references.draw import draw_picture
from tests.support.images import encode
from tests.support.networks import randomize, save_checkpoint


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_maps_sum_to_the_logits(shape: dict[str, Any]) -> None:
    """The evidence maps sum to the logits of the published network, within 1e-4 of the logit range."""
    network = Swin(config_of(shape)).requires_grad_(requires_grad=False).eval()
    randomize(network)
    pixels = torch.randint(0, 256, (1, *shape["input_size"], 3), dtype=torch.uint8)
    logits = network(pixels.permute(0, 3, 1, 2) / 255)[0].numpy()
    with torch.inference_mode():
        _, tokens = StaticSwin(network, 1 / 255, [0.0] * 3, [1.0] * 3).eval()(pixels)

    maps = contributions(tokens[0].numpy(), Head(network.head.weight.numpy(), network.head.bias.numpy()))

    assert np.abs(maps.sum(axis=1) - logits).max() <= 1e-4 * np.ptp(logits)


def test_a_padded_bundle_that_is_not_square_is_served_with_evidence(tmp_path: Path) -> None:
    """The evidence grid in a response is the last map without padding, and each map sums to its logit."""
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
