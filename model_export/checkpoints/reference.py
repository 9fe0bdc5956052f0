"""What a proof compares with: the source library where it can be had, and ours, step by step, where it cannot."""

import importlib
from types import ModuleType

import torch
from PIL import Image
from torch import Tensor

from app.bundle import Preprocessing
from app.preprocess import preprocess_in_steps
from model_export.swin import Swin


class Ours:
    """`swin.py`, after preprocessing that resizes the whole image and then crops, as the sources write it.

    The network is then not proved against anybody else's; everything that is done to it afterwards is.
    """

    is_independent = False

    def __init__(self, network: Swin, recipe: Preprocessing, missing: str) -> None:
        """`missing`: why the source library itself is not asked."""
        self.name = f"swin.py ({missing})"
        self._network, self._recipe = network, recipe

    def images(self, image: Image.Image) -> Tensor:
        """RGB image → normalised float32 (1, 3, height, width)."""
        return in_steps(image, self._recipe)

    def logits(self, images: Tensor) -> Tensor:
        """Normalised images → (batch, classes)."""
        with torch.inference_mode():
            logits: Tensor = self._network(images)
        return logits


def in_steps(image: Image.Image, recipe: Preprocessing) -> Tensor:
    """RGB image → normalised float32 (1, 3, height, width)."""
    pixels = torch.from_numpy(preprocess_in_steps(image, recipe).copy()).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(channels).view(3, 1, 1) for channels in (recipe.mean, recipe.std))
    return (pixels.float() * recipe.scale - mean) / std


def library(name: str) -> ModuleType | None:
    """A source library, if it is installed and works."""
    try:
        return importlib.import_module(name)
    except Exception:  # noqa: BLE001 (one that was built for another torch fails in ways of its own)
        return None
