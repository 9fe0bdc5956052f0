"""Networks with random weights, and checkpoints of them. Needs torch."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from transformers import SwinConfig, SwinForImageClassification, Swinv2Config, Swinv2ForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from app.bundle.manifest import MODEL
from tests.references.draw import draw


def randomize(module: nn.Module, seed: int = 0) -> None:
    """Fill every parameter, so that attention, masks and position biases affect the result."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(draw(name, tuple(parameter.shape), seed)))


def transformers_swin(seed: int = 0, **config: Any) -> Any:
    """Return a network of the transformers library, small by default, with random weights."""
    small: dict[str, Any] = {
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 24,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": 4,
        "num_labels": 10,
    }
    version = config.pop("version", 1)
    if version == 1:
        network: Any = SwinForImageClassification(SwinConfig(**(small | config)))
    else:
        network = Swinv2ForImageClassification(Swinv2Config(**(small | config)))
    randomize(network, seed)
    network.eval()
    return network


def save_checkpoint(folder: Path, *, size: dict[str, int] | None = None, processor: Any = None, **config: Any) -> Path:
    """Save the checkpoint of a fine-tuned network: weights, configuration, preprocessor."""
    network = transformers_swin(**config)
    network.save_pretrained(folder)
    side = config.get("image_size", 32)
    options: dict[str, Any] = {"size": size or {"height": side, "width": side}, "resample": 3, **(processor or {})}
    ViTImageProcessorPil(**options).save_pretrained(folder)
    return folder


def exported_before(bundle: Path) -> Callable[[nn.Module, tuple[int, int], Path], int]:
    """Return a fake `to_onnx` that copies the graph of `bundle`, to save most of a build."""

    def take(_network: nn.Module, _input_size: tuple[int, int], path: Path) -> int:
        shutil.copy(bundle / MODEL, path)
        return len(onnx.load(path).graph.node)

    return take
