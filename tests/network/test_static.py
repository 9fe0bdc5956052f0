"""Tests of `model_export/network/static.py`, by comparison with `swin.py`."""

from typing import Any

import pytest
import torch

from app.bundle.manifest import Preprocessing, Squash
from model_export.network.static import PADDING, StaticBlock, StaticSwin, block_order
from model_export.network.swin import Swin, SwinConfig
from model_export.verification.parity import normalize
from tests.support.networks import randomize

SMALL: dict[str, Any] = {"num_classes": 7, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "window 4": {"input_size": (32, 32)},
    "window 7": {"input_size": (112, 112), "window": 7, "depths": (2, 2, 2), "num_heads": (2, 4, 8)},
    "window 12": {"input_size": (192, 192), "window": 12, "num_heads": (1, 2)},
    "ape": {"input_size": (56, 56), "window": 7, "ape": True},
    "no patch norm, no qkv bias": {"input_size": (32, 32), "patch_norm": False, "qkv_bias": False},
    "odd depths": {"input_size": (64, 64), "depths": (3, 1)},
    "not square": {"input_size": (64, 96), "ape": True},
    "padded maps": {"input_size": (72, 104), "depths": (2, 2, 2), "num_heads": (2, 4, 4), "ape": True},
    "odd maps to merge": {"input_size": (36, 36), "window": 3, "depths": (2, 2, 1), "num_heads": (2, 4, 4)},
    "window larger than the map": {"input_size": (32, 32), "window": 6},
    "v2": {"input_size": (32, 32), "version": 2, "pretrained_window_sizes": (0, 0)},
    "v2, padded, odd, pretrained": {
        "input_size": (72, 72),
        "version": 2,
        "pretrained_window_sizes": (8, 6, 0),
        "depths": (2, 2, 2),
        "num_heads": (2, 4, 4),
        "ape": True,
    },
    "v2, no qkv bias": {"input_size": (32, 32), "version": 2, "pretrained_window_sizes": (0, 0), "qkv_bias": False},
    "timm, padded": {"input_size": (72, 104), "window_convention": "timm"},
    "timm, windows cut on one side": {"input_size": (48, 64), "window_convention": "timm", "window": 14},
    "torchvision, padded": {"input_size": (72, 104), "window_convention": "torchvision"},
    "torchvision, window larger than the map": {
        "input_size": (32, 48),
        "window_convention": "torchvision",
        "window": 10,
    },
    "a window for each stage, not square": {
        "input_size": (96, 48),
        "window_sizes": ((6, 4), (12, 6)),
        "window_convention": "timm",
    },
    "patch 2": {"input_size": (32, 32), "patch_size": 2},
}


def config_of(shape: dict[str, Any]) -> SwinConfig:
    config = SMALL | shape
    window = config.pop("window")
    config.setdefault("window_sizes", ((window, window),) * len(config["depths"]))
    return SwinConfig(**config)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_equals_the_published_network(shape: dict[str, Any]) -> None:
    """The static network on bytes equals `swin.py` on normalized images, within 1e-5 of the logit range."""
    network = Swin(config_of(shape)).requires_grad_(requires_grad=False).eval()
    randomize(network)
    height, width = shape["input_size"]
    recipe = Preprocessing(
        resize=Squash(mode="squash", height=height, width=width),
        crop=None,
        interpolation="bicubic",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    static = StaticSwin(network, recipe.scale, recipe.mean, recipe.std).eval()
    pixels = torch.randint(0, 256, (8, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    expected = network(normalize(pixels, recipe))
    for batch in (1, 2, 3, 8):
        logits, _ = static(pixels[:batch])

        assert (logits - expected[:batch]).abs().max() <= 1e-5 * (expected.max() - expected.min())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_tokens_are_the_last_map_in_raster_order(shape: dict[str, Any]) -> None:
    """The tokens equal the last feature map of `swin.py`, row by row, for all window partitions."""
    maps = list[torch.Tensor]()
    network = Swin(config_of(shape)).requires_grad_(requires_grad=False).eval()
    randomize(network)
    network.norm.register_forward_hook(lambda _, __, output: maps.append(output))
    pixels = torch.randint(0, 256, (2, *shape["input_size"], 3), dtype=torch.uint8)
    network(pixels.permute(0, 3, 1, 2) / 255)

    _, tokens = StaticSwin(network, 1 / 255, [0.0] * 3, [1.0] * 3).eval()(pixels)

    assert torch.allclose(maps[0].flatten(1, 2), tokens, atol=1e-4)


def test_the_stream_is_reordered_once_between_blocks() -> None:
    """Each pair of blocks has one gather between them, and merging needs none.

    The merging writes in the order of the next block. The last gather restores the raster order.
    """
    static = baked(input_size=(64, 64), depths=(2, 2))

    names = [type(step).__name__ for step in static.steps]

    stage = ["StaticBlock", "Gather", "StaticBlock"]
    assert [*stage, "StaticPatchMerging", *stage, "Gather"] == names


def test_windows_in_raster_order_need_no_last_gather() -> None:
    """If one window covers the last map, as in the published networks, there is no last gather."""
    static = baked(input_size=(32, 32), depths=(2, 2))

    assert type(static.steps[-1]) is StaticBlock


def test_mask_and_bias_are_one_constant() -> None:
    """All windows share one bias in a block without shift, and have one bias each in a shifted block."""
    steps = baked(input_size=(32, 32), depths=(2,), num_heads=(2,)).steps
    first, second = (step for step in steps if isinstance(step, StaticBlock))

    assert first.attention.bias.shape == (1, 1, 2, 16, 16)
    assert second.attention.bias.shape == (4, 1, 2, 16, 16)


def test_every_position_has_a_slot() -> None:
    """An order contains each position of the map once, and padding for incomplete windows."""
    config = config_of({"input_size": (36, 44)})

    order = block_order(config, 0, 1)

    assert list(range(9 * 11)) == sorted(order[order != PADDING].tolist())
    assert len(order) == 12 * 12


def baked(**shape: Any) -> StaticSwin:
    network = Swin(config_of(shape)).requires_grad_(requires_grad=False)
    return StaticSwin(network, 1 / 255, [0.5] * 3, [0.5] * 3)
