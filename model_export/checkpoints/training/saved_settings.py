"""Settings and class names in a file: mappings beside the weights, as plain values.

Knows only the keys that hold other settings, and no training script.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import Tensor

from model_export.checkpoints.files.pickles import RecordedObject
from model_export.errors import CheckpointError

# Attributes in which OmegaConf, mmengine and ml_collections keep the content of a configuration or
# a value.
VALUE_ATTRIBUTES = ("_content", "_val", "_cfg_dict", "_fields")
# Keys of mappings without settings of images: states of a run, and arguments of initialization.
IGNORED_KEYS = re.compile(
    r"^_|optim|scheduler|scaler|^loops$|^callbacks$|rng|(^|_)state(_dict)?$|(^|_)init", re.IGNORECASE
)
# Keys under which scripts save settings as text, in YAML or another form.
TEXT_KEYS = ("args", "config", "cfg", "hparams", "hyper_parameters")
# Limits on the depth and number of mappings, the characters of a text, and the numbers in a tensor.
MAX_DEPTH, MAX_SECTIONS, MAX_TEXT_LENGTH, MAX_NUMBERS = 5, 1000, 200_000, 16


class Section(NamedTuple):
    """One mapping of a file, with the dotted path to it."""

    place: str
    values: Mapping[str, Any]


class Setting(NamedTuple):
    """One value of a mapping, with the path to the mapping and its key."""

    place: str
    key: str
    value: Any

    @property
    def name(self) -> str:
        """Path and key, for messages."""
        return f"{self.place}: {self.key}" if self.place else self.key


def find_sections(content: Mapping[Any, Any]) -> list[Section]:
    """Return the top level of a file and every mapping of settings in it, outer mappings first."""
    found = [Section("", _values(content))]
    for place, values in found:
        for key, value in values.items():
            if len(found) < MAX_SECTIONS and place.count(".") < MAX_DEPTH and not IGNORED_KEYS.search(key):
                inside = _parse_text(value) if key in TEXT_KEYS and isinstance(value, str) else value
                if isinstance(inside, Mapping) and not _is_weights(inside):
                    found.append(Section(f"{place}.{key}".removeprefix("."), _values(inside)))
    return found


def find_settings(found: list[Section], keys: tuple[str, ...]) -> Iterator[Setting]:
    """Yield the settings with one of these keys that are set, in the order of the sections."""
    for place, values in found:
        for key in keys:
            if key in values and not is_unset(values[key]):
                yield Setting(place, key, values[key])


def is_unset(value: Any) -> bool:
    """Return whether a value is None, an empty text or an empty list."""
    return value is None or (isinstance(value, str | list | tuple) and not value)


def notes_on_unparsed_text(found: list[Section]) -> list[str]:
    """Return a note for each text of settings that is not a YAML mapping."""
    return [
        f"{setting.name} is text that is not a YAML mapping, so it is not used"
        for setting in find_settings(found, TEXT_KEYS)
        if isinstance(setting.value, str) and "\n" in setting.value and _parse_text(setting.value) is None
    ]


def parse_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the metadata of a safetensors file, with lists and objects parsed from JSON."""
    made: dict[str, Any] = dict(metadata)
    for key, text in metadata.items():
        if text.lstrip().startswith(("[", "{")):
            try:
                made[key] = json.loads(text)
            except (ValueError, RecursionError):
                continue
    return made


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file; None if there is no such file.

    Raises:
        CheckpointError: the file cannot be read.
    """
    if not path.is_file():
        return None
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read; move it away if it is not of this run") from error


def _parse_text(text: str) -> Mapping[Any, Any] | None:
    if len(text) > MAX_TEXT_LENGTH:
        return None
    try:
        made = yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        return None
    return made if isinstance(made, Mapping) else None


def _values(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    return {key: unwrap_value(value) for key, value in mapping.items() if isinstance(key, str)}


def _is_weights(mapping: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) and "." in str(key) for key, value in mapping.items())


def unwrap_value(value: Any, depth: int = 0) -> Any:
    """Return the plain value inside objects of configuration libraries and small tensors."""
    if isinstance(value, RecordedObject) and depth < MAX_DEPTH:
        return next((unwrap_value(value[key], depth + 1) for key in VALUE_ATTRIBUTES if key in value), value)
    if isinstance(value, Tensor) and value.numel() <= MAX_NUMBERS and not value.is_meta:
        return value.tolist()
    if isinstance(value, list | tuple) and depth < 2:  # noqa: PLR2004 (lists in lists)
        return [unwrap_value(item, depth + 1) for item in value]
    return value
