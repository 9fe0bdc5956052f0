"""Torch's own way on a GPU: a library's network as it is, or compiled, behind what the engine's graph begins with."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from app.system.device import CPU, Device
from benchmarks.model.interleave import Run
from benchmarks.model.networks import Shape, network_of

LIBRARIES = ("timm", "transformers")
"""Whose networks take part; torch runs that of the first that can be imported."""

MEAN, STD = 127.5, 57.0
"""Of bytes: what is subtracted and divided by makes no difference to the time."""


class OnPixels(nn.Module):
    """A library's network behind what the engine's graph begins with."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, pixels: Tensor) -> Tensor:
        """Bytes (batch, height, width, 3) → logits."""
        images = (pixels.permute(0, 3, 1, 2).half() - MEAN) / STD
        answer: Tensor = self.network(images)
        return answer


def of_torch(shape: Shape, sizes: Sequence[int], device: Device, mode: str, libraries: Path | None) -> Run:
    """The network of the first library there is, as it is or compiled for each batch size by itself."""
    network = OnPixels(_first(shape, libraries)).to(str(device))
    runs: Any = network if mode == "eager" else torch.compile(network, mode=mode, dynamic=False)
    side = shape["image_size"]
    pixels = torch.randint(0, 256, (max(sizes), side, side, 3), dtype=torch.uint8)
    pinned = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=device != CPU)

    @torch.inference_mode()
    def run(size: int) -> object:
        batch = pinned[:size].copy_(pixels[:size])  # as the engine does: what was decoded lies anywhere
        return runs(batch.to(str(device), non_blocking=True)).float().cpu()

    return run


def _first(shape: Shape, libraries: Path | None) -> nn.Module:
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            return network_of(name, shape, libraries)
    raise ImportError(f"none of {LIBRARIES} can be imported")
