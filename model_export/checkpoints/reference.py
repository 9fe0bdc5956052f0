"""The reference of the proof: the source library's network, or `swin.py` if the library fails.

Knows nothing about checkpoints.
"""

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

# timm 0.4.12, 0.6.13, 0.8.19 and 0.9.0 fail to make or to load the networks in tests/references.
# 0.9.16 and 1.0.3 to 1.0.31 give the same logits for those without padding or cut windows.
# pyproject.toml requires transformers 5.
MIN_VERSIONS: dict[str, tuple[int, ...]] = {"timm": (1, 0), "transformers": (5,)}


class Reference(Protocol):
    """Preprocessing and network that `swin.py` must equal: those of the source library.

    `is_independent` is false if the library cannot be used. `logits` and `embedding` are then those
    of `swin.py` itself, and the proof covers only the steps after it.
    """

    name: str
    is_independent: bool

    def images(self, image: Image.Image) -> Tensor:
        """Return an RGB image as normalized float32 `(1, 3, height, width)`."""

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of normalized images, `(batch, classes)`."""

    def embedding(self, images: Tensor) -> Tensor:
        """Return the vectors that the head is applied to, `(batch, channels)`."""


class FallbackReference:
    """`swin.py` itself, for a network that the source library cannot compute.

    Preprocessing resizes the whole image and then crops, as in the source libraries. The proof then
    covers every step after the network, and not the network.
    """

    is_independent = False

    def __init__(self, network: Swin, recipe: Preprocessing, reason: str) -> None:
        """`reason`: why the source library is not the reference."""
        self.name = f"swin.py ({reason})"
        self._network, self._recipe = network, recipe

    def images(self, image: Image.Image) -> Tensor:
        return preprocess_to_tensor(image, self._recipe)

    def logits(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self._network(images)
        return logits

    def embedding(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            return self._network.embedding(images)


def preprocess_to_tensor(image: Image.Image, recipe: Preprocessing) -> Tensor:
    """Resize, then crop an RGB image. Return normalized float32 `(1, 3, height, width)`."""
    pixels = torch.from_numpy(preprocess_in_steps(image, recipe).copy()).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(channels).view(3, 1, 1) for channels in (recipe.mean, recipe.std))
    return (pixels.float() * recipe.scale - mean) / std


def library_reference(
    name: str,
    make: Callable[[Any], Reference | None],
    network: Swin,
    recipe: Preprocessing,
) -> Reference:
    """Return the source library's network, or a `FallbackReference` if the library fails.

    Args:
        name: of the library.
        make: makes the reference with the imported library; returns None if the library has no such
            network.
        network: with its weights.
        recipe: its preprocessing.
    """
    try:
        library = importlib.import_module(name)
    except ModuleNotFoundError as error:
        is_itself = error.name == name
        return FallbackReference(
            network, recipe, f"without {name}" + ("" if is_itself else f", which needs {error.name}")
        )
    except Exception:  # noqa: BLE001 (a library that was built for another torch raises any error)
        return FallbackReference(network, recipe, f"without {name}: it is installed, but cannot be imported")
    version = f"{name} {getattr(library, '__version__', 'of unknown version')}"
    if _is_older(library, MIN_VERSIONS.get(name, ())):
        oldest = ".".join(map(str, MIN_VERSIONS[name]))
        return FallbackReference(
            network, recipe, f"{version} is too old to be the reference; {name} {oldest} or later is needed"
        )
    try:
        made = make(library)
    except Exception:  # noqa: BLE001 (classes of another release take other arguments and raise any error)
        return FallbackReference(network, recipe, f"{version} cannot load this network")
    return made or FallbackReference(network, recipe, f"{version} has no such network")


def usable(reference: Reference, network: Swin, recipe: Preprocessing) -> Reference:
    """Return the reference if it runs, else a `FallbackReference`. Values are compared later."""
    if not reference.is_independent:
        return reference
    height, width = network.config.input_size
    try:
        images = reference.images(Image.new("RGB", (width + 1, height + 2)))
        gray = torch.zeros(1, 3, height, width)
        logits, embedding = reference.logits(gray), reference.embedding(gray)
    except Exception:  # noqa: BLE001 (a library may raise any error; swin.py can still compute the network)
        return FallbackReference(network, recipe, f"{reference.name} cannot run this network")
    shapes = images.shape, logits.shape, embedding.shape
    if shapes != ((1, 3, height, width), (1, network.config.num_classes), (1, network.head.in_features)):
        return FallbackReference(network, recipe, f"{reference.name} makes another network of it")
    return reference


def _is_older(library: ModuleType, oldest: tuple[int, ...]) -> bool:
    numbers = re.findall(r"\d+", str(getattr(library, "__version__", "")))[: len(oldest)]
    return bool(numbers) and tuple(map(int, numbers)) < oldest
