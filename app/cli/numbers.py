"""Numbers on a command line, as types of argparse. Each error is one sentence with the value."""

import argparse
import math
from collections.abc import Callable
from typing import Any

from app.validation_messages import shorten

# In place of a list: an empty one.
NONE = "none"


def list_of(parse: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """Return the type of a list with commas, or of `none`."""
    return lambda text: () if text == NONE else tuple(parse(part) for part in text.split(","))


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return the type of a whole number within bounds."""

    def parse(text: str) -> int:
        if text.strip().isdecimal() and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"{shorten(text)!r} is no whole number from {low} to {high}")

    return parse


def number(noun: str, high: float, *, least: float | None = None) -> Callable[[str], float]:
    """Return the type of a number from `least` on, or above 0, up to `high`. `noun` is the word for it."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if (value > 0 if least is None else value >= least) and value <= high:
            return value
        low = "above 0 and up" if least is None else f"from {least:g}"
        raise argparse.ArgumentTypeError(f"{shorten(text)!r} is no {noun} {low} to {high:g}")

    return parse
