"""The Swin networks of transformers, timm and torchvision, in torch and as plain ONNX exports.

Knows nothing about bundles.
"""

import contextlib
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SwinConfig, SwinForImageClassification

from tests.references.make import skip_torchvision_operators

# Hyperparameters of a network, by the names of transformers.
Shape = Mapping[str, Any]

SWIN_T: Shape = {
    "image_size": 224,
    "patch_size": 4,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "mlp_ratio": 4.0,
    "num_labels": 1000,
}


class Logits(nn.Module):
    """The network of transformers, with the logits as its only output."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.network = SwinForImageClassification(SwinConfig(**shape))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of normalized images of (batch, 3, height, width)."""
        logits: Tensor = self.network(pixel_values=images).logits
        return logits


def _of_timm(shape: Shape) -> nn.Module:
    module = importlib.import_module("timm.models.swin_transformer")
    network: nn.Module = module.SwinTransformer(
        img_size=shape["image_size"], num_classes=shape["num_labels"], **{name: shape[name] for name in SAME_NAMES}
    )
    return network


def _of_torchvision(shape: Shape) -> nn.Module:
    module = importlib.import_module("torchvision.models.swin_transformer")
    window, patch = [shape["window_size"]] * 2, [shape["patch_size"]] * 2
    sizes = {name: shape[name] for name in ("embed_dim", "depths", "num_heads", "mlp_ratio")}
    network: nn.Module = module.SwinTransformer(
        patch_size=patch, window_size=window, num_classes=shape["num_labels"], **sizes
    )
    return network


# Hyperparameters that timm and transformers name alike.
SAME_NAMES = ("patch_size", "embed_dim", "depths", "num_heads", "window_size", "mlp_ratio")
NETWORKS: dict[str, Callable[[Shape], nn.Module]] = {
    "transformers": Logits,
    "timm": _of_timm,
    "torchvision": _of_torchvision,
}


def network_of(library: str, shape: Shape, libraries: Path | None) -> nn.Module:
    """Return the network of a library, with its initial weights.

    Args:
        library: one of `NETWORKS`.
        shape: the hyperparameters of the network.
        libraries: another folder in which timm and torchvision may be installed.

    Raises:
        ImportError: the library cannot be imported.
    """
    skip_torchvision_operators()
    with _also_in(libraries):
        return NETWORKS[library](shape).eval()


def exports(
    folder: Path,
    libraries: Path | None,
    shape: Shape = SWIN_T,
    names: Collection[str] = tuple(NETWORKS),
    precision: torch.dtype = torch.float32,
) -> Iterator[tuple[str, Path]]:
    """Write a plain export for each library that can be imported. Yield names and paths."""
    for name in names:
        with contextlib.suppress(ImportError):
            network, path = network_of(name, shape, libraries), folder / f"{name}.onnx"
            export(network.to(precision), path, shape["image_size"])
            yield name, path


@contextlib.contextmanager
def _also_in(libraries: Path | None) -> Iterator[None]:
    """Extend the import path for a while.

    Child processes inherit the path, and transformers imports a torchvision that it finds there.
    """
    path = list(sys.path)
    sys.path.extend([] if libraries is None else [str(libraries)])
    try:
        yield
    finally:
        sys.path[:] = path


def export(network: nn.Module, path: Path, side: int) -> None:
    """Export as the documentation of torch recommends, or with the TorchScript exporter where that fails."""
    images: Any = torch.zeros(2, 3, side, side, dtype=next(network.parameters()).dtype)
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
    """Suppress the warnings of the exporters about code that they trace."""
    logging.getLogger("torch.onnx").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
