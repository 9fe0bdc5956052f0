"""What every reader returns, and how it fills the network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from torch import Tensor

from app.bundle import Activation, Label, Preprocessing, Source
from model_export.errors import CheckpointError
from model_export.swin import Swin


class Reference(Protocol):
    """The source library's own preprocessing and network: what ours must equal."""

    name: str

    def images(self, image: Image.Image) -> Tensor:
        """RGB image → normalised float32 (1, 3, height, width)."""

    def logits(self, images: Tensor) -> Tensor:
        """Normalised images → (batch, classes)."""


@dataclass(frozen=True)
class Checkpoint:
    """A network with everything that was decided when it was trained."""

    source: Source
    network: Swin
    preprocessing: Preprocessing
    labels: tuple[Label, ...]
    activation: Activation
    reference: Reference


def load_weights(network: Swin, weights: Mapping[str, Tensor]) -> None:
    """Fill the network; every weight must be there, fit, and be used.

    Raises:
        CheckpointError: lists what is missing, left over or of another shape.
    """
    wanted = network.state_dict()
    complaints = [
        *(f"{name} is missing" for name in wanted.keys() - weights.keys()),
        *(f"{name} is unknown" for name in weights.keys() - wanted.keys()),
        *(
            f"{name} has shape {tuple(weights[name].shape)}, the configuration asks for {tuple(wanted[name].shape)}"
            for name in wanted.keys() & weights.keys()
            if weights[name].shape != wanted[name].shape
        ),
    ]
    if complaints:
        first, rest = sorted(complaints)[:5], len(complaints) - 5
        raise CheckpointError(f"weights: {'; '.join(first)}{f'; and {rest} more' if rest > 0 else ''}")
    if broken := [name for name, weight in weights.items() if not weight.isfinite().all()]:
        raise CheckpointError(f"weights: {min(broken)} holds values that are not finite")
    network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    network.requires_grad_(requires_grad=False).eval()
