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


def number(noun: str, high: float, *, may_be_0: bool = False) -> Callable[[str], float]:
    """Return the type of a number above 0, or from 0 on, up to `high`. `noun` is the word for it."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if 0 < value <= high or (value == 0 and may_be_0):
            return value
        least = "from 0 on" if may_be_0 else "above 0"
        raise argparse.ArgumentTypeError(f"{shorten(text)!r} is no {noun} {least} and up to {high:g}")

    return parse
