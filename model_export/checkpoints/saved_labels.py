"""Class names that a training script saved in the file of the weights.

Names that cannot be read, that have another number of classes or that contradict other names are
refused, or left out with a note. Knows nothing about weights.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from app.bundle.manifest import Label
from model_export.checkpoints.imagenet import imagenet_labels
from model_export.checkpoints.labels import AMBIGUOUS_KEYS, KEYS, LISTS, from_data
from model_export.checkpoints.training import saved_settings
from model_export.checkpoints.training.saved_settings import Setting
from model_export.errors import CheckpointError

LABELS_HINT = "give their names with --labels"


class SavedLabels(NamedTuple):
    """Labels, their place in the file ("" without labels), and notes on unused lists."""

    labels: tuple[Label, ...] | None
    place: str
    notes: tuple[str, ...]


def find_labels(content: Mapping[str, Any], classes: int) -> SavedLabels:
    """Return the labels that a script saved for this number of classes.

    Raises:
        CheckpointError: two places name the classes differently, or an object has another number of
            classes.
    """
    found, notes = dict[str, tuple[Label, ...]](), list[str]()
    for setting in saved_settings.find_settings(saved_settings.find_sections(content), KEYS):
        if not isinstance(setting.value, Mapping | list | tuple | set | frozenset):
            continue
        if setting.key in AMBIGUOUS_KEYS:
            notes += _note_on_ambiguous(setting, classes)
            continue
        labels = _read(setting, notes, classes)
        if labels is not None:
            found[_path(setting)] = labels
    if len(set(found.values())) > 1:
        raise CheckpointError(f"{' and '.join(found)} name the classes differently; {LABELS_HINT}")
    if not found:
        return SavedLabels(None, "", tuple(notes))
    return SavedLabels(next(iter(found.values())), next(iter(found)), tuple(notes))


def _path(setting: Setting) -> str:
    return f"{setting.place}.{setting.key}".removeprefix(".")


def _note_on_ambiguous(setting: Setting, classes: int) -> list[str]:
    """Return a note on a list that may name the classes or something else."""
    value = setting.value
    if not isinstance(value, list | tuple) or len(value) != classes or not all(isinstance(name, str) for name in value):
        return []
    return [f"{_path(setting)} may name the classes or something else, so it is not used; {LABELS_HINT} if it does"]


def _read(setting: Setting, notes: list[str], classes: int) -> tuple[Label, ...] | None:
    """Return the labels; add a note and return None if a list does not name these classes."""
    name, is_list = _path(setting), setting.key in LISTS
    value = setting.value
    if isinstance(value, Mapping):
        value = {saved_settings.unwrap_value(key): saved_settings.unwrap_value(inner) for key, inner in value.items()}
    try:
        labels = from_data(value, setting.key)
    except ValueError as error:
        if is_list and not isinstance(value, set | frozenset):
            notes.append(f"{name} is not used: {error}")
            return None
        raise CheckpointError(f"{name}: {error}; {LABELS_HINT}") from error
    if len(labels) != classes:
        mismatch = f"{name} names {len(labels)} classes, the network has {classes}"
        if not is_list:
            raise CheckpointError(f"{mismatch}; {LABELS_HINT}")
        notes.append(f"{mismatch}, so it is not used")
        return None
    twice = [label.name for label, count in Counter(labels).items() if count > 1]
    if twice and imagenet_labels(classes) is None:  # ImageNet has names that occur twice
        raise CheckpointError(f"{name} gives two classes the name '{twice[0]}'; {LABELS_HINT}")
    return labels
