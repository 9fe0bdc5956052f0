"""Names of classes that a script saved beside the weights, wherever it keeps them.

What cannot be read, is for another number of classes, or contradicts another place, is refused or told.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from app.bundle.manifest import Label
from model_export.checkpoints.imagenet import imagenet_labels
from model_export.checkpoints.labels import KEYS, LISTS, WORDS, from_data
from model_export.checkpoints.training import saved_settings
from model_export.checkpoints.training.saved_settings import Setting
from model_export.errors import CheckpointError

GIVE = "give their names with --labels"


class Named(NamedTuple):
    """The names, where they were, and what else was there; None and "" where there are none."""

    labels: tuple[Label, ...] | None
    place: str
    notes: tuple[str, ...]


def labels_of(content: Mapping[str, Any], classes: int) -> Named:
    """Return the names that a script saved for so many classes.

    Raises:
        CheckpointError: two places name the classes otherwise, or an object is for another number of them.
    """
    found, notes = dict[str, tuple[Label, ...]](), list[str]()
    for setting in saved_settings.within(saved_settings.levels(content), KEYS):
        if not isinstance(setting.value, Mapping | list | tuple | set | frozenset):
            continue
        if setting.key in WORDS:
            notes += _of_word(setting, classes)
            continue
        labels = _read(setting, notes, classes)
        if labels is not None:
            found[_name(setting)] = labels
    if len(set(found.values())) > 1:
        raise CheckpointError(f"{' and '.join(found)} name the classes otherwise; {GIVE}")
    if not found:
        return Named(None, "", tuple(notes))
    return Named(next(iter(found.values())), next(iter(found)), tuple(notes))


def _name(setting: Setting) -> str:
    return f"{setting.place}.{setting.key}".removeprefix(".")


def _of_word(setting: Setting, classes: int) -> list[str]:
    """Return a note on a list that may be of the classes, or of anything else that has labels or names."""
    value = setting.value
    if not isinstance(value, list | tuple) or len(value) != classes or not all(isinstance(name, str) for name in value):
        return []
    return [f"{_name(setting)} may name the classes or something else, so it is not used; {GIVE} if it does"]


def _read(setting: Setting, notes: list[str], classes: int) -> tuple[Label, ...] | None:
    """Return the names; None, and a note, where a list is no list of these classes."""
    name, is_list = _name(setting), setting.key in LISTS
    value = setting.value
    if isinstance(value, Mapping):
        value = {saved_settings.plain(key): saved_settings.plain(inner) for key, inner in value.items()}
    try:
        labels = from_data(value, setting.key)
    except ValueError as error:
        if is_list and not isinstance(value, set | frozenset):
            notes.append(f"{name} is not used: {error}")
            return None
        raise CheckpointError(f"{name}: {error}; {GIVE}") from error
    if len(labels) != classes:
        said = f"{name} names {len(labels)} classes, the network has {classes}"
        if not is_list:
            raise CheckpointError(f"{said}; {GIVE}")
        notes.append(f"{said}, so it is not used")
        return None
    twice = [label.name for label, count in Counter(labels).items() if count > 1]
    if twice and imagenet_labels(classes) is None:  # ImageNet has two names twice
        raise CheckpointError(f"{name} calls two classes '{twice[0]}'; {GIVE}")
    return labels
