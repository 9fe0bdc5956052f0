"""Swin as everybody else would run it: the libraries' own networks, in torch, and as plain ONNX exports."""

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

from tests.references.make import let_operators_pass

Shape = Mapping[str, Any]
"""Of a network, by the names of the transformers library."""

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
    """The transformers library's network, which otherwise hands out more."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.network = SwinForImageClassification(SwinConfig(**shape))

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images (batch, 3, height, width) → logits."""
        logits: Tensor = self.network(pixel_values=images).logits
        return logits


def _of_timm(shape: Shape) -> nn.Module:
    module = importlib.import_module("timm.models.swin_transformer")
    network: nn.Module = module.SwinTransformer(
        img_size=shape["image_size"], num_classes=shape["num_labels"], **{name: shape[name] for name in ALIKE}
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


ALIKE = ("patch_size", "embed_dim", "depths", "num_heads", "window_size", "mlp_ratio")
NETWORKS: dict[str, Callable[[Shape], nn.Module]] = {
    "transformers": Logits,
    "timm": _of_timm,
    "torchvision": _of_torchvision,
}


def network_of(library: str, shape: Shape, libraries: Path | None) -> nn.Module:
    """A library's own network, with the weights it begins training with.

    Args:
        library: one of `NETWORKS`.
        shape: of the network.
        libraries: where else timm and torchvision may lie.

    Raises:
        ImportError: the library cannot be imported.
    """
    let_operators_pass()
    with _also_in(libraries):
        return NETWORKS[library](shape).eval()


def exports(
    folder: Path,
    libraries: Path | None,
    shape: Shape = SWIN_T,
    names: Collection[str] = tuple(NETWORKS),
    precision: torch.dtype = torch.float32,
) -> Iterator[tuple[str, Path]]:
    """Plain exports of the libraries that can be imported, by name, written to the folder; see `network_of`."""
    for name in names:
        with contextlib.suppress(ImportError):
            network, path = network_of(name, shape, libraries), folder / f"{name}.onnx"
            export(network.to(precision), path, shape["image_size"])
            yield name, path


@contextlib.contextmanager
def _also_in(libraries: Path | None) -> Iterator[None]:
    """Not for longer: processes inherit the path, and transformers, where it sees a torchvision, imports it."""
    path = list(sys.path)
    sys.path.extend([] if libraries is None else [str(libraries)])
    try:
        yield
    finally:
        sys.path[:] = path


def export(network: nn.Module, path: Path, side: int) -> None:
    """As torch's documentation has it; with the older exporter where the newer one fails."""
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
    """Exporters trace through code that was not written for them, and say so."""
    logging.getLogger("torch.onnx").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
