"""What a proof compares with: the source library where it can be had, and ours, step by step, where it cannot."""

import importlib
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from app.bundle.manifest import Preprocessing
from app.images.preprocess import preprocess_in_steps
from model_export.network.swin import Swin

# Releases that computed each of this project's reference networks without padding or cut windows alike. timm 0.4.12,
# 0.6.13, 0.8.19 and 0.9.0 fail to make or to load them; 0.9.16 and 1.0.3 to 1.0.31 give the same logits.
# transformers 5 is what this project asks for.
OLDEST: dict[str, tuple[int, ...]] = {"timm": (1, 0), "transformers": (5,)}


class Reference(Protocol):
    """What `swin.py` must equal: the source library's own preprocessing and network.

    Where that library is not installed, `is_independent` is false: `logits` are those of `swin.py` itself, and only the
    steps after it are proved.
    """

    name: str
    is_independent: bool

    def images(self, image: Image.Image) -> Tensor:
        """RGB image → normalized float32 (1, 3, height, width)."""

    def logits(self, images: Tensor) -> Tensor:
        """Normalized images → (batch, classes)."""


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
        """RGB image → normalized float32 (1, 3, height, width)."""
        return in_steps(image, self._recipe)

    def logits(self, images: Tensor) -> Tensor:
        """Normalized images → (batch, classes)."""
        with torch.inference_mode():
            logits: Tensor = self._network(images)
        return logits


def in_steps(image: Image.Image, recipe: Preprocessing) -> Tensor:
    """RGB image → normalized float32 (1, 3, height, width)."""
    pixels = torch.from_numpy(preprocess_in_steps(image, recipe).copy()).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(channels).view(3, 1, 1) for channels in (recipe.mean, recipe.std))
    return (pixels.float() * recipe.scale - mean) / std


def ask(
    name: str,
    make: Callable[[Any], Reference | None],
    network: Swin,
    recipe: Preprocessing,
) -> Reference:
    """Return the source library's own network, or `swin.py` where the library is missing, too old or fails.

    Args:
        name: of the library.
        make: the reference with the library; None where it has no such network.
        network: with its weights.
        recipe: its preprocessing.
    """
    try:
        library = importlib.import_module(name)
    except ModuleNotFoundError as error:
        is_itself = error.name == name
        return Ours(network, recipe, f"without {name}" + ("" if is_itself else f", which needs {error.name}"))
    except Exception:  # noqa: BLE001 (one that was built for another torch fails in ways of its own)
        return Ours(network, recipe, f"without {name}: it is installed, but cannot be imported")
    version = f"{name} {getattr(library, '__version__', 'of unknown version')}"
    if _is_older(library, OLDEST.get(name, ())):
        oldest = ".".join(map(str, OLDEST[name]))
        return Ours(network, recipe, f"{version} is too old to be the reference; {name} {oldest} or later is needed")
    try:
        made = make(library)
    except Exception:  # noqa: BLE001 (another release's classes take other arguments and fail in any way)
        return Ours(network, recipe, f"{version} cannot load this network")
    return made or Ours(network, recipe, f"{version} has no such network")


def usable(reference: Reference, network: Swin, recipe: Preprocessing) -> Reference:
    """Return the reference if it runs, else `swin.py`. What it computes is not judged here but in the proof."""
    if not reference.is_independent:
        return reference
    height, width = network.config.input_size
    try:
        images = reference.images(Image.new("RGB", (width + 1, height + 2)))
        logits = reference.logits(torch.zeros(1, 3, height, width))
    except Exception:  # noqa: BLE001 (whatever a library raises, swin.py still computes the network)
        return Ours(network, recipe, f"{reference.name} cannot run this network")
    if images.shape != (1, 3, height, width) or logits.shape != (1, network.config.num_classes):
        return Ours(network, recipe, f"{reference.name} makes another network of it")
    return reference


def _is_older(library: ModuleType, oldest: tuple[int, ...]) -> bool:
    numbers = re.findall(r"\d+", str(getattr(library, "__version__", "")))[: len(oldest)]
    return bool(numbers) and tuple(map(int, numbers)) < oldest
