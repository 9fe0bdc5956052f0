"""The forms in which scripts write a setting: a size, three numbers, a share, a choice. Each is read or refused.

Knows neither keys nor families of scripts.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from model_export.checkpoints.files.pickles import Recorded
from model_export.checkpoints.preprocessing import PILLOW, Channels
from model_export.checkpoints.training.saved_settings import Setting
from model_export.errors import CheckpointError, RequestError, UnsupportedModel
from model_export.network.windows import Size

Value = TypeVar("Value")

RGB = 3
SMALLEST = 8
"""Pixels of a side that may be an input's."""

LEVELS = 255


def unless(replaced: object, form: Callable[[Setting], Value], setting: Setting) -> Value | None:
    """Return what a setting says; None where it says it in no known form, and an option replaces it.

    Raises:
        RequestError: no option replaces it.
    """
    try:
        return form(setting)
    except RequestError:
        if replaced is None:
            raise
        return None


def size(setting: Setting) -> Size:
    """Return (height, width): of one side, of both, with channels before or behind, or with a batch before these.

    Raises:
        CheckpointError: it is no size.
        UnsupportedModel: images have other channels than three.
    """
    value = setting.value
    if isinstance(value, Mapping) and value.keys() == {"height", "width"}:
        value = [value["height"], value["width"]]
    numbers = _numbers(value) or []
    sides = [int(number) for number in numbers if number == int(number)]
    if len(sides) == len(numbers):
        sides = sides[1:] if len(sides) == 4 else sides  # noqa: PLR2004 (batch, channels, height, width)
        if len(sides) == 3:  # noqa: PLR2004 (channels, height, width)
            channels, *sides = sides if sides[0] <= sides[-1] else sides[::-1][:1] + sides[:2]
            if channels != RGB:
                raise UnsupportedModel(f"{setting.name}: images have {channels} channels; only RGB is exported")
        match sides:
            case [side] if side >= SMALLEST:
                return side, side
            case [height, width] if min(height, width) >= SMALLEST:
                return height, width
    raise CheckpointError(f"{setting.name} is {shown(setting.value)}, which is no size of images; give --input-size")


def side(setting: Setting) -> int:
    """Return the shorter side of a size.

    Raises:
        CheckpointError: it is no size, or one of two sides.
    """
    height, width = size(setting)
    if height != width:
        raise CheckpointError(f"{setting.name} is {shown(setting.value)}, not one side; give --fit and --resize")
    return height


def channels(option: str) -> Callable[[Setting], Channels]:
    """Return a reader of one number for each channel, or of one for all; `option` replaces the setting."""

    def read(setting: Setting) -> Channels:
        numbers = _numbers(setting.value) or []
        match numbers * RGB if len(numbers) == 1 else numbers:
            case [red, green, blue]:
                return red, green, blue
        raise CheckpointError(
            f"{setting.name} is {shown(setting.value)}, which is not a number for each of three channels; give {option}"
        )

    return read


def share(setting: Setting) -> float:
    """Return one number above 0.

    Raises:
        CheckpointError: it is none.
    """
    match _numbers(setting.value):
        case [number] if number > 0:
            return number
    raise CheckpointError(
        f"{setting.name} is {shown(setting.value)}, not a number that is a share of the image; give --resize"
    )


def choice(option: str, known: Collection[str]) -> Callable[[Setting], str]:
    """Return a reader of a word; `option` replaces the setting."""

    def read(setting: Setting) -> str:
        value = setting.value
        if isinstance(value, int) and not isinstance(value, bool) and value in range(len(PILLOW)):
            value = PILLOW[value]
        word = value.rpartition(".")[2].lower() if isinstance(value, str) else ""
        if word not in known:
            text = f"'{value}'" if isinstance(value, str) else shown(value)
            raise UnsupportedModel(
                f"{setting.place}: {setting.key} {text} is not supported; give another with {option}"
            )
        return word

    return read


def is_true(option: str) -> Callable[[Setting], bool]:
    """Return a reader of yes or no; `option` replaces the setting."""

    def read(setting: Setting) -> bool:
        if isinstance(setting.value, bool | int) and setting.value in {0, 1}:
            return bool(setting.value)
        raise CheckpointError(f"{setting.name} is {shown(setting.value)}, neither true nor false; give {option}")

    return read


def in_unit(mean: Channels, std: Channels) -> tuple[Channels, Channels]:
    """Return both in units of 255: some scripts count in levels."""
    if max(mean) <= 1:
        return mean, std
    (red, green, blue), (red_std, green_std, blue_std) = ([value / LEVELS for value in row] for row in (mean, std))
    return (red, green, blue), (red_std, green_std, blue_std)


def shown(value: Any) -> str:
    """Return a value as people write it, or what kind it is."""
    if isinstance(value, Recorded):
        return f"an object of {value.class_name}"
    return json.dumps(value, default=lambda inner: f"an object of {getattr(inner, 'class_name', type(inner).__name__)}")


def _numbers(value: Any) -> list[float] | None:
    """Return the numbers in a number, a text or lists; None where something else is among them."""
    if isinstance(value, str):
        value = [word for word in re.split(r"[\s,;x×()\[\]]+", value) if word]
        if not all(re.fullmatch(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?|[-+]?\.\d+", word, re.IGNORECASE) for word in value):
            return None
        return [float(word) for word in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [value] if math.isfinite(value) else None
    if not isinstance(value, list | tuple):
        return None
    inner = [_numbers(item) for item in value]
    return None if None in inner else [number for numbers in inner for number in numbers or []]
