"""The models that are served, by name and version. Knows no protocol."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from app.bundle.load import Contents
from app.classification.classifier import Classifier
from app.errors import UnknownModel

# Version of a model that has no other version.
ONLY_VERSION = "1"

# Names that a path of a protocol has taken: `/v2/models/stats`.
RESERVED_NAMES = {"stats"}

MAX_NAME = 64


@dataclass(frozen=True)
class Model:
    """One version of a model."""

    name: str  # as in paths
    version: str
    contents: Contents
    classifier: Classifier

    @cached_property
    def unique_labels(self) -> Sequence[str]:
        """The names of the classes. A name that several classes have is followed by the index, as `crane (134)`."""
        names = [label.name for label in self.contents.labels]
        number = Counter(names)
        return [f"{name} ({index})" if number[name] > 1 else name for index, name in enumerate(names)]


class ModelRegistry:
    """The models of a service. The first one is the default of routes without a model's name."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = models

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models)

    @property
    def default(self) -> Model:
        """The model of routes without a model's name."""
        return self._models[0]

    def find(self, name: str, version: str | None = None) -> Model:
        """Return the model with this name, in this version or in the one that it serves.

        Raises:
            UnknownModel: there is no such model, or not in this version.
        """
        for model in self._models:
            if model.name == name and version in {None, model.version}:
                return model
        raise UnknownModel(name, version if self.has(name) else None)

    def has(self, name: str) -> bool:
        """Return whether a model has this name, in any version."""
        return any(model.name == name for model in self._models)


def path_name(name: str) -> str:
    """Return a name of a bundle as a name for paths: letters, digits and `._-`, and not a reserved one."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:MAX_NAME] or "model"
    return f"{plain}-model" if plain in RESERVED_NAMES else plain
