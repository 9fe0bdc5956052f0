"""Swin-T as everybody else would run it: the libraries' own networks, in torch, and as plain ONNX exports."""

import contextlib
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SwinConfig, SwinForImageClassification

from tests.references.make import let_operators_pass

SIDE, CLASSES = 224, 1000


class Logits(nn.Module):
    """The transformers library's network, which otherwise hands out more."""

    def __init__(self) -> None:
        super().__init__()
        shape: Any = {"image_size": SIDE, "num_labels": CLASSES}
        self.network = SwinForImageClassification(SwinConfig(**shape))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (batch, 3, height, width) → logits."""
        logits: Tensor = self.network(pixel_values=images).logits
        return logits


def _of_timm() -> nn.Module:
    network: nn.Module = importlib.import_module("timm").create_model("swin_tiny_patch4_window7_224")
    return network


def _of_torchvision() -> nn.Module:
    network: nn.Module = importlib.import_module("torchvision").models.swin_t()
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "transformers": Logits,
    "timm": _of_timm,
    "torchvision": _of_torchvision,
}


def exports(folder: Path, libraries: Path | None) -> Iterator[tuple[str, Path]]:
    """Plain exports of the libraries that can be imported, with the weights they begin training with.

    Args:
        folder: to write them into.
        libraries: where else timm and torchvision may lie.
    """
    let_operators_pass()
    for name, make in NETWORKS.items():
        with _also_in(libraries), contextlib.suppress(ImportError):
            export(make().eval(), folder / f"{name}.onnx")
            yield name, folder / f"{name}.onnx"


@contextlib.contextmanager
def _also_in(libraries: Path | None) -> Iterator[None]:
    """Not for longer: processes inherit the path, and transformers, where it sees a torchvision, imports it."""
    path = list(sys.path)
    sys.path.extend([] if libraries is None else [str(libraries)])
    try:
        yield
    finally:
        sys.path[:] = path


def export(network: nn.Module, path: Path) -> None:
    """As torch's documentation has it; with the older exporter where the newer one fails."""
    images: Any = torch.zeros(2, 3, SIDE, SIDE)
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    with _quiet():
        try:
            shapes = ({0: torch.export.Dim("batch", min=1)},)
            torch.onnx.export(
                network, (images,), path, dynamo=True, dynamic_shapes=shapes, external_data=False, **names
            )
        except torch.onnx.OnnxExporterError:
            axes = {"images": {0: "batch"}, "logits": {0: "batch"}}
            torch.onnx.export(network, (images,), path, dynamo=False, dynamic_axes=axes, **names)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters trace through code that was not written for them, and say so."""
    logging.getLogger("torch.onnx").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
