"""What a run's settings say of the network and its images, whichever script wrote them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.bundle.manifest import Preprocessing
from model_export.network.windows import Size

MakeRecipe = Callable[[Size], Preprocessing]


@dataclass(frozen=True)
class Training:
    """What a run's settings say; None where they are silent. `place` is their name for people."""

    place: str = ""
    architecture: str | None = None
    is_of_network: bool = False  # whether the script made its network by that name, so that it has to fit the weights
    input_size: Size | None = None
    recipe: MakeRecipe | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of timm's network
    windows: Mapping[str, Any] = field(default_factory=dict)  # of Swin V2, as fields of SwinConfig
    dataset: str | None = None
    classes: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the published recipe, where only these are said
    notes: tuple[str, ...] = ()


NO_TRAINING = Training()
