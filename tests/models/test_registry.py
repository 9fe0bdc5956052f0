"""Tests of `app/models/registry.py`: models by name and version."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.errors import UnknownModel
from app.models.registry import Model, ModelRegistry, path_name


def model_of(name: str, version: str = "1", labels: tuple[str, ...] = ()) -> Model:
    """Return a model with these labels, and without a classifier."""
    contents = SimpleNamespace(labels=[SimpleNamespace(name=label) for label in labels])
    return Model(name, version, cast("Any", contents), cast("Any", None))


def test_a_model_is_found_by_name_and_version() -> None:
    """Without a version, the first model of the name is served."""
    first, second = model_of("a"), model_of("b", "2")
    models = ModelRegistry([first, second])

    assert [models.find("a"), models.find("b"), models.find("b", "2"), models.default] == [first, second, second, first]


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("c", None, "Request for unknown model: 'c' is not found"),
        ("c", "1", "Request for unknown model: 'c' is not found"),
        ("a", "2", "Request for unknown model: 'a' version 2 is not found"),
    ],
)
def test_an_unknown_model_is_named(name: str, version: str | None, message: str) -> None:
    """The error has the version only if the model has other ones."""
    with pytest.raises(UnknownModel) as caught:
        ModelRegistry([model_of("a")]).find(name, version)
    assert caught.value.detail == message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("swin-tiny", "swin-tiny"),
        ("my model/ä", "my-model"),
        ("stats", "stats-model"),
        ("..", "model"),
        ("", "model"),
        ("x" * 99, "x" * 64),
    ],
)
def test_a_name_fits_into_a_path(name: str, expected: str) -> None:
    """Other characters become dashes, and reserved names change."""
    assert path_name(name) == expected


def test_equal_labels_are_numbered() -> None:
    """A label that several classes have gets the index, so that an object of labels loses no class."""
    assert model_of("a", labels=("crane", "cat", "crane")).unique_labels == ["crane (0)", "cat", "crane (2)"]
