"""Parsers of setting values: sizes, channels, fractions, choices and booleans.

A value in another form is refused. Knows neither keys nor training scripts.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from model_export.checkpoints.files.pickles import RecordedObject
from model_export.checkpoints.preprocessing import PILLOW_INTERPOLATIONS, Channels
from model_export.checkpoints.training.saved_settings import Setting
from model_export.errors import CheckpointError, RequestError, UnsupportedModel
from model_export.network.windows import Size

Value = TypeVar("Value")

RGB_CHANNELS = 3
# The smallest side of an input, in pixels.
MIN_SIDE = 8
MAX_LEVEL = 255


def parse_unless_replaced(replaced: object, parse: Callable[[Setting], Value], setting: Setting) -> Value | None:
    """Return the value of a setting; None if it cannot be parsed and an option replaces it.

    Raises:
        RequestError: the setting cannot be parsed, and no option replaces it.
    """
    try:
        return parse(setting)
    except RequestError:
        if replaced is None:
            raise
        return None


def parse_size(setting: Setting) -> Size:
    """Return (height, width) from one side, two sides, or a shape with channels and batch.

    Raises:
        CheckpointError: the value is not a size.
        UnsupportedModel: the number of channels is not three.
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
            if channels != RGB_CHANNELS:
                raise UnsupportedModel(f"{setting.name}: images have {channels} channels; only RGB is exported")
        match sides:
            case [side] if side >= MIN_SIDE:
                return side, side
            case [height, width] if min(height, width) >= MIN_SIDE:
                return height, width
    raise CheckpointError(
        f"{setting.name} is {format_value(setting.value)}, which is not an image size; give --input-size"
    )


def parse_side(setting: Setting) -> int:
    """Return the side of a square size.

    Raises:
        CheckpointError: the value is not a size, or has two different sides.
    """
    height, width = parse_size(setting)
    if height != width:
        raise CheckpointError(f"{setting.name} is {format_value(setting.value)}, not one side; give --fit and --resize")
    return height


def channels_parser(option: str) -> Callable[[Setting], Channels]:
    """Return a parser of one number for each channel, or of one for all; messages name `option`."""

    def parse(setting: Setting) -> Channels:
        numbers = _numbers(setting.value) or []
        match numbers * RGB_CHANNELS if len(numbers) == 1 else numbers:
            case [red, green, blue]:
                return red, green, blue
        raise CheckpointError(
            f"{setting.name} is {format_value(setting.value)}, which is not a number for each of three channels; "
            f"give {option}"
        )

    return parse


def parse_fraction(setting: Setting) -> float:
    """Return one number above 0.

    Raises:
        CheckpointError: the value is not such a number.
    """
    match _numbers(setting.value):
        case [number] if number > 0:
            return number
    raise CheckpointError(
        f"{setting.name} is {format_value(setting.value)}, not a number that is a fraction of the image; give --resize"
    )


def choice_parser(option: str, known: Collection[str]) -> Callable[[Setting], str]:
    """Return a parser of a known word or of Pillow's number of one; messages name `option`."""

    def parse(setting: Setting) -> str:
        value = setting.value
        if isinstance(value, int) and not isinstance(value, bool) and value in range(len(PILLOW_INTERPOLATIONS)):
            value = PILLOW_INTERPOLATIONS[value]
        word = value.rpartition(".")[2].lower() if isinstance(value, str) else ""
        if word not in known:
            text = f"'{value}'" if isinstance(value, str) else format_value(value)
            raise UnsupportedModel(
                f"{setting.place}: {setting.key} {text} is not supported; give another with {option}"
            )
        return word

    return parse


def boolean_parser(option: str) -> Callable[[Setting], bool]:
    """Return a parser of true or false, 1 or 0; messages name `option`."""

    def parse(setting: Setting) -> bool:
        if isinstance(setting.value, bool | int) and setting.value in {0, 1}:
            return bool(setting.value)
        raise CheckpointError(f"{setting.name} is {format_value(setting.value)}, neither true nor false; give {option}")

    return parse


def scale_to_unit(mean: Channels, std: Channels) -> tuple[Channels, Channels]:
    """Return mean and standard deviation in units of 255. Some scripts write them as levels."""
    if max(mean) <= 1:
        return mean, std
    (red, green, blue), (red_std, green_std, blue_std) = ([value / MAX_LEVEL for value in row] for row in (mean, std))
    return (red, green, blue), (red_std, green_std, blue_std)


def format_value(value: Any) -> str:
    """Return a value as JSON for a message. Objects become their class names."""
    if isinstance(value, RecordedObject):
        return f"an object of {value.class_name}"
    return json.dumps(value, default=lambda inner: f"an object of {getattr(inner, 'class_name', type(inner).__name__)}")


def _numbers(value: Any) -> list[float] | None:
    """Return the numbers in a number, a text or nested lists; None for other values."""
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
