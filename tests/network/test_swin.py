"""Tests of `model_export/network/swin.py`, by comparison with transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model_export.checkpoints.detect import read_checkpoint
from model_export.errors import UnsupportedModel
from model_export.network.swin import SwinConfig
from model_export.network.windows import relative_position_index, shift_mask, window_partition, window_reverse
from tests.support.networks import save_checkpoint, transformers_swin

SHAPES: dict[str, dict[str, Any]] = {
    "window 4": {},
    "window 7": {"image_size": 112, "window_size": 7, "depths": [2, 2, 2], "num_heads": [2, 4, 8]},
    "window 12": {"image_size": 192, "window_size": 12, "depths": [2, 2], "num_heads": [1, 2]},
    "ape": {"image_size": 56, "window_size": 7, "use_absolute_embeddings": True},
    "no qkv bias": {"qkv_bias": False},
    "odd depths": {"image_size": 64, "depths": [1, 3]},
    "padded maps": {"image_size": 72, "depths": [2, 2, 2], "num_heads": [2, 4, 4]},
    "v2": {"version": 2},
    "v2, window 7": {"version": 2, "image_size": 112, "window_size": 7, "depths": [2, 2, 2], "num_heads": [2, 4, 8]},
    "v2, pretrained windows": {"version": 2, "image_size": 64, "window_size": 8, "pretrained_window_sizes": [4, 6]},
    "v2, padded, window larger than the map": {"version": 2, "image_size": 72, "window_size": 10},
    "v2, odd maps to merge": {"version": 2, "image_size": 72, "depths": [2, 2, 2], "num_heads": [2, 4, 4]},
    "odd maps, window between": {"image_size": 36, "window_size": 5, "depths": [2, 2], "num_heads": [2, 4]},
    "v2, no qkv bias": {"version": 2, "qkv_bias": False},
    "narrow mlp, other eps": {"mlp_ratio": 2.0, "layer_norm_eps": 1e-3},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_equals_transformers(shape: dict[str, Any], tmp_path: Path) -> None:
    """The logits equal those of transformers, within 1e-5 of their range, for batches of 1, 2, 3 and 8."""
    side = shape.get("image_size", 32)
    reference = transformers_swin(**shape)
    network = read_checkpoint(str(save_checkpoint(tmp_path / "checkpoint", **shape))).network
    images = torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = reference(pixel_values=images).logits
        for batch in (1, 2, 3, 8):
            difference = (network(images[:batch]) - expected[:batch]).abs().max()

            assert difference <= 1e-5 * (expected.max() - expected.min())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_embedding_equals_the_pooled_features(shape: dict[str, Any], tmp_path: Path) -> None:
    """The embedding equals `pooler_output` of transformers, within 1e-5 of its range."""
    side = shape.get("image_size", 32)
    network = read_checkpoint(str(save_checkpoint(tmp_path / "checkpoint", **shape))).network
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = transformers_swin(**shape).base_model(pixel_values=images).pooler_output
        difference = (network.embedding(images) - expected).abs().max()

        assert difference <= 1e-5 * (expected.max() - expected.min())


@pytest.mark.parametrize("part", ["shift mask", "position bias", "qkv bias"])
def test_parity_is_sensitive(part: str, tmp_path: Path) -> None:
    """Without one of its parts, the logits differ by over 100 times the tolerance of the comparison."""
    network = read_checkpoint(str(save_checkpoint(tmp_path / "checkpoint"))).network
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(images)
        for name, module in network.named_modules():
            if name.endswith("attn"):
                match part:
                    case "shift mask":
                        module.windowing = replace(module.windowing, shift=(0, 0))
                    case "position bias":
                        module.relative_position_bias_table.zero_()
                    case "qkv bias":
                        module.qkv.bias.zero_()
        difference = (network(images) - expected).abs().max()

        assert difference > 1e-3 * (expected.max() - expected.min())


def test_window_reverse_undoes_window_partition() -> None:
    """`window_reverse` inverts `window_partition` for a map that is not square."""
    x = torch.arange(2 * 6 * 9 * 5).view(2, 6, 9, 5)

    assert torch.equal(x, window_reverse(window_partition(x, (3, 3)), (3, 3), 6, 9))


def test_windows_are_contiguous_squares() -> None:
    """A window contains adjacent positions, in raster order."""
    windows = window_partition(torch.arange(16).view(1, 4, 4, 1), (2, 2))

    assert windows[0, :, :, 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_relative_position_index() -> None:
    """The row of the bias table depends only on the offset between two positions."""
    expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]

    assert expected == relative_position_index((2, 2)).tolist()


def test_shift_mask_separates_what_the_roll_joined() -> None:
    """In the last window of a rolled 4×4 map, every position is masked for all others."""
    mask = shift_mask(4, 4, window=(2, 2), shift=(1, 1), mask_value=-100.0)

    assert torch.count_nonzero(mask[0]) == 0
    assert torch.equal(mask[-1], -100.0 * (1 - torch.eye(4)))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"input_size": (30, 32)}, "not a multiple of the patch size"),
        ({"num_heads": (2,)}, "2 depths but 1 head counts"),
        ({"num_heads": (5, 4)}, "do not divide by 5 heads"),
        ({"depths": (0, 2)}, "at least 1"),
        ({"version": 2, "pretrained_window_sizes": (8,)}, "2 stages, 1 pretrained windows"),
    ],
)
def test_impossible_shapes_are_refused(config: dict[str, Any], sentence: str) -> None:
    """A configuration that describes no network is refused with one sentence."""
    possible: dict[str, Any] = {
        "input_size": (32, 32),
        "num_classes": 3,
        "embed_dim": 24,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "window_sizes": ((4, 4), (4, 4)),
    }

    with pytest.raises(UnsupportedModel, match=sentence):
        SwinConfig(**(possible | config))


def test_a_window_that_fills_the_map_does_not_shift() -> None:
    """As in the original code, a window that covers the map has its size and no shift."""
    config = SwinConfig(
        input_size=(32, 64), num_classes=3, embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_sizes=((6, 6),) * 2
    )

    assert [config.windowing(stage, 0).size for stage in (0, 1)] == [(6, 6), (4, 4)]
    assert [[config.windowing(stage, block).shift[0] for block in (0, 1)] for stage in (0, 1)] == [[0, 3], [0, 0]]
