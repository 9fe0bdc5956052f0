"""Readers and networks, compared with stored results of timm and torchvision; see `references/`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from app.bundle.manifest import CenterCrop, Preprocessing, ShorterSide
from app.images.preprocess import preprocess, preprocess_in_steps
from model_export.checkpoints import timm
from model_export.checkpoints.checkpoint import Checkpoint, Options
from model_export.checkpoints.detect import read_checkpoint
from model_export.checkpoints.preprocessing import from_timm
from model_export.checkpoints.variants import MEAN, STD
from model_export.network.static import StaticSwin
from model_export.verification.parity import normalize
from tests.references import cases
from tests.references.draw import draw_picture, draw_pixels
from tests.references.stored import stored

SMALL_ONES = ["swin_tiny_patch4_window7_224", "swin_s3_tiny_224", "swinv2_tiny_window8_256", "swinv2_tiny_window16_256"]
VARIANTS = [name for name in stored("timm").shapes if name.startswith("swin")]


def timm_folder(folder: Path, case: str) -> Path:
    """Write the folder that `timm.models.save_for_hf` writes for one of the small networks."""
    arguments = cases.SMALL | {key: value for key, value in cases.TIMM[case].items() if key != "version"}
    family = "swinv2_tiny_window8_256" if cases.TIMM[case].get("version") == 2 else "swin_tiny_patch4_window7_224"
    config = {
        "architecture": family,
        "num_classes": 10,
        "global_pool": "avg",
        "model_args": arguments,
        "pretrained_cfg": {"input_size": [3, *arguments["img_size"]], "num_classes": 10},
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(stored("timm").state_dict(case), folder / "model.safetensors")
    return folder


def differences(
    checkpoint: Checkpoint, expected: np.ndarray[Any, Any], *, embedding: bool = False
) -> tuple[float, float]:
    """Return the largest differences of `swin.py` and `StaticSwin`, relative to the range of `expected`.

    Compares the logits, or the embeddings if `embedding` is true.
    """
    pixels = torch.from_numpy(draw_pixels(2, *checkpoint.network.config.input_size))
    recipe = checkpoint.preprocessing.model_copy(update={"mean": MEAN, "std": STD, "scale": 1 / 255})
    network, static = checkpoint.network, StaticSwin(checkpoint.network, 1 / 255, MEAN, STD).eval()
    images = normalize(pixels, recipe)
    with torch.inference_mode():
        logits, tokens = static(pixels)
        results = (network.embedding(images), tokens.mean(dim=1)) if embedding else (network(images), logits)
    first, second = (float(np.abs(result.numpy() - expected).max() / np.ptp(expected)) for result in results)
    return first, second


@pytest.mark.parametrize("case", cases.TIMM)
def test_timm_s_networks(case: str, tmp_path: Path) -> None:
    """A folder as timm writes it gives timm's logits, also with padding and with cut windows."""
    checkpoint = read_checkpoint(str(timm_folder(tmp_path / "timm", case)))

    assert checkpoint.source.kind == "timm"
    assert max(differences(checkpoint, stored("timm").arrays[case])) <= 1e-5


@pytest.mark.parametrize("case", cases.TIMM)
def test_timm_s_embeddings(case: str, tmp_path: Path) -> None:
    """A folder as timm writes it gives timm's embeddings, also with padding and with cut windows."""
    checkpoint = read_checkpoint(str(timm_folder(tmp_path / "timm", case)))

    assert max(differences(checkpoint, stored("timm").arrays[f"{case} embedding"], embedding=True)) <= 1e-5


def torchvision_checkpoint(folder: Path, case: str) -> Checkpoint:
    """Write the state dict of one of the small networks, and read it."""
    torch.save(stored("torchvision").state_dict(case), folder / "weights.pth")
    height, width = cases.TORCHVISION[case]["img_size"]
    return read_checkpoint(str(folder / "weights.pth"), Options(input_size=(height, width)))


@pytest.mark.parametrize("case", cases.TORCHVISION)
def test_torchvision_s_embeddings(case: str, tmp_path: Path) -> None:
    """A state dict of torchvision gives its embeddings, also with windows that exceed the map."""
    checkpoint = torchvision_checkpoint(tmp_path, case)

    assert max(differences(checkpoint, stored("torchvision").arrays[f"{case} embedding"], embedding=True)) <= 1e-5


@pytest.mark.parametrize("case", cases.TORCHVISION)
def test_torchvision_s_networks(case: str, tmp_path: Path) -> None:
    """A state dict of torchvision gives its logits, also with windows that exceed the map."""
    checkpoint = torchvision_checkpoint(tmp_path, case)

    assert checkpoint.source.kind == "torchvision"
    assert max(differences(checkpoint, stored("torchvision").arrays[case])) <= 1e-5


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=[] if name in SMALL_ONES else pytest.mark.slow) for name in VARIANTS]
)
def test_timm_s_published_shapes(variant: str, tmp_path: Path) -> None:
    """A bare state dict of each published variant, with `--architecture`, gives timm's logits."""
    torch.save(stored("timm").state_dict(variant), tmp_path / "weights.pth")
    checkpoint = read_checkpoint(str(tmp_path / "weights.pth"), Options(architecture=variant))

    assert max(differences(checkpoint, stored("timm").arrays[variant])) <= 1e-5


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(name, marks=[] if name.endswith("_t") else pytest.mark.slow)
        for name in stored("torchvision").shapes
        if name.startswith("swin")
    ],
)
def test_torchvision_s_published_shapes(variant: str, tmp_path: Path) -> None:
    """A bare state dict of each published variant gives torchvision's logits without options."""
    torch.save(stored("torchvision").state_dict(variant), tmp_path / "weights.pth")
    checkpoint = read_checkpoint(str(tmp_path / "weights.pth"))

    assert max(differences(checkpoint, stored("torchvision").arrays[variant])) <= 1e-5


def authors_file(path: Path, case: str) -> Path:
    """Write timm's weights as the authors' training saves them. Return the path."""
    weights: dict[str, Tensor] = timm.renamed(stored("timm").state_dict(case))
    torch.save({"model": weights, "epoch": 299, "max_accuracy": 81.2}, path)
    return path


@pytest.mark.parametrize("variant", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
def test_the_authors_files(variant: str, tmp_path: Path) -> None:
    """The authors' files give timm's logits, with the authors' preprocessing."""
    path = authors_file(tmp_path / "weights.pth", variant)
    checkpoint = read_checkpoint(str(path), Options(architecture=variant))
    side = checkpoint.network.config.input_size[0]

    assert (checkpoint.source.kind, checkpoint.network.config.window_convention) == ("original", "original")
    assert max(differences(checkpoint, stored("timm").arrays[variant])) <= 1e-5
    assert checkpoint.preprocessing.resize == ShorterSide(mode="shorter_side", size=side * 256 // 224)


@pytest.mark.parametrize("case", cases.TRANSFORMS)
def test_timm_s_transforms(case: str) -> None:
    """`pretrained_cfg` gives timm's pixels: equal in steps, within 0.03 levels on average."""
    settings = cases.TRANSFORMS[case]
    _, height, width = settings["input_size"]
    recipe = from_timm(settings | {"mean": [0, 0, 0], "std": [1, 1, 1]}, (height, width))

    assert_same_pixels("timm", case, recipe)


@pytest.mark.parametrize("case", cases.PRESETS)
def test_torchvision_s_transforms(case: str) -> None:
    """A resize of the shorter side and a crop give the pixels of torchvision's preset."""
    settings = cases.PRESETS[case]
    recipe = Preprocessing(
        resize=ShorterSide(mode="shorter_side", size=settings["resize_size"]),
        crop=CenterCrop(height=settings["crop_size"], width=settings["crop_size"], rounding="half_even"),
        interpolation=settings["interpolation"],
        scale=1 / 255,
        mean=MEAN,
        std=STD,
    )

    assert_same_pixels("torchvision", case, recipe)


def assert_same_pixels(library: str, case: str, recipe: Preprocessing) -> None:
    differences = []
    for place, size in enumerate(cases.PICTURES):
        expected, picture = stored(library).arrays[f"{case} {place}"].astype(int), draw_picture(*size)
        differences.append(np.abs(preprocess(picture, recipe) - expected))

        assert np.array_equal(expected, preprocess_in_steps(picture, recipe))
    assert np.mean(differences) <= 0.03
    assert np.max(differences) <= 3
