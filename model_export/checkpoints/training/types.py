"""The settings of a training run, in one form for all scripts. Knows no script."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.bundle.manifest import Preprocessing
from model_export.network.windows import Size

MakePreprocessing = Callable[[Size], Preprocessing]


@dataclass(frozen=True)
class Training:
    """The settings of a training run; None for a setting that is absent."""

    place: str = ""  # the name of the settings in messages
    architecture: str | None = None
    must_match_weights: bool = False  # the script makes its network by the name, so its shape must fit the weights
    input_size: Size | None = None
    recipe: MakePreprocessing | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of timm's network
    windows: Mapping[str, Any] = field(default_factory=dict)  # of Swin V2, as fields of SwinConfig
    dataset: str | None = None
    classes: int | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)  # fields that replace those of the published preprocessing
    notes: tuple[str, ...] = ()


NO_TRAINING = Training()
