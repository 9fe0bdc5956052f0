"""The network of a library on a GPU in torch, eager or compiled, with the engine's preprocessing of bytes."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from app.system.device import CPU, Device
from benchmarks.model.interleave import Run
from benchmarks.model.networks import Shape, network_of

# Libraries to compare. Torch runs the network of the first one that can be imported.
LIBRARIES = ("timm", "transformers")

# Normalization of bytes. The values do not affect the time.
MEAN, STD = 127.5, 57.0


class OnPixels(nn.Module):
    """A network that takes bytes and normalizes them first, as the engine's graph does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits of bytes of (batch, height, width, 3)."""
        images = (pixels.permute(0, 3, 1, 2).half() - MEAN) / STD
        logits: Tensor = self.network(images)
        return logits


def of_torch(shape: Shape, sizes: Sequence[int], device: Device, mode: str, libraries: Path | None) -> Run:
    """Return a function that runs the network, eager or compiled for each batch size separately."""
    network = OnPixels(_first(shape, libraries)).to(str(device))
    runs: Any = network if mode == "eager" else torch.compile(network, mode=mode, dynamic=False)
    side = shape["image_size"]
    pixels = torch.randint(0, 256, (max(sizes), side, side, 3), dtype=torch.uint8)
    pinned = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=device != CPU)

    @torch.inference_mode()
    def run(size: int) -> object:
        batch = pinned[:size].copy_(pixels[:size])  # as the engine does: decoded images are in pageable memory
        return runs(batch.to(str(device), non_blocking=True)).float().cpu()

    return run


def _first(shape: Shape, libraries: Path | None) -> nn.Module:
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            return network_of(name, shape, libraries)
    raise ImportError(f"none of these can be imported: {', '.join(LIBRARIES)}")
