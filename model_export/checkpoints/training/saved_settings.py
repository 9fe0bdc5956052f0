"""Where settings and names of classes lie in a file: mappings at any depth beside the weights, as plain values.

Knows no key of any script's but those that hold other settings.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import Tensor

from model_export.checkpoints.files.pickles import Recorded
from model_export.errors import CheckpointError

# Attributes in which OmegaConf, mmengine and ml_collections keep what a configuration or one of its values holds.
HOLDERS = ("_content", "_val", "_cfg_dict", "_fields")
# Keys of mappings that hold no settings of images: states of a run, and what it began with.
OTHERS = re.compile(r"^_|optim|scheduler|scaler|^loops$|^callbacks$|rng|(^|_)state(_dict)?$|(^|_)init", re.IGNORECASE)
TEXTS = ("args", "config", "cfg", "hparams", "hyper_parameters")
"""Keys under which scripts keep settings as text, YAML or another."""

DEEPEST, MOST, LONGEST_TEXT, MAX_NUMBERS = 5, 1000, 200_000, 16


class Level(NamedTuple):
    """One mapping of a file, and the dotted path to it."""

    place: str
    values: Mapping[str, Any]


class Setting(NamedTuple):
    """One value, and where it is."""

    place: str
    key: str
    value: Any

    @property
    def name(self) -> str:
        """What people can look for."""
        return f"{self.place}: {self.key}" if self.place else self.key


def levels(content: Mapping[Any, Any]) -> list[Level]:
    """Return the file's own level, and every mapping of settings in it, outer ones first."""
    found = [Level("", _values(content))]
    for place, values in found:
        for key, value in values.items():
            if len(found) < MOST and place.count(".") < DEEPEST and not OTHERS.search(key):
                inside = _of_text(value) if key in TEXTS and isinstance(value, str) else value
                if isinstance(inside, Mapping) and not _is_weights(inside):
                    found.append(Level(f"{place}.{key}".removeprefix("."), _values(inside)))
    return found


def within(found: list[Level], keys: tuple[str, ...]) -> Iterator[Setting]:
    """Return the settings with one of these keys that say something, by level."""
    for place, values in found:
        for key in keys:
            if key in values and not is_silent(values[key]):
                yield Setting(place, key, values[key])


def is_silent(value: Any) -> bool:
    """Whether a setting says nothing: an empty text or list is as good as none."""
    return value is None or (isinstance(value, str | list | tuple) and not value)


def unread(found: list[Level]) -> list[str]:
    """Return a note for each text of settings that is not YAML."""
    return [
        f"{setting.name} is text in no form that is read here, so nothing in it is followed"
        for setting in within(found, TEXTS)
        if isinstance(setting.value, str) and "\n" in setting.value and _of_text(setting.value) is None
    ]


def of_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what safetensors' metadata says; lists and objects are JSON there."""
    made: dict[str, Any] = dict(metadata)
    for key, text in metadata.items():
        if text.lstrip().startswith(("[", "{")):
            try:
                made[key] = json.loads(text)
            except (ValueError, RecursionError):
                continue
    return made


def of_yaml(path: Path) -> Any:
    """Return the content of a YAML file; None where there is none.

    Raises:
        CheckpointError: it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read; move it away if it is not of this run") from error


def _of_text(text: str) -> Mapping[Any, Any] | None:
    if len(text) > LONGEST_TEXT:
        return None
    try:
        made = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        return None
    return made if isinstance(made, Mapping) else None


def _values(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    return {key: plain(value) for key, value in mapping.items() if isinstance(key, str)}


def _is_weights(mapping: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) and "." in str(key) for key, value in mapping.items())


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value without what configuration libraries and torch wrap around it."""
    if isinstance(value, Recorded) and depth < DEEPEST:
        return next((plain(value[key], depth + 1) for key in HOLDERS if key in value), value)
    if isinstance(value, Tensor) and value.numel() <= MAX_NUMBERS and not value.is_meta:
        return value.tolist()
    if isinstance(value, list | tuple) and depth < 2:  # noqa: PLR2004 (lists in lists)
        return [plain(item, depth + 1) for item in value]
    return value
