"""Where a network runs: the CPU, or one GPU of perhaps several."""

import re
from dataclasses import dataclass
from typing import Literal

DEVICES = r"cpu|(cuda|tensorrt)(:\d{1,3}(,\d{1,3})*)?"
"""What names one or several of them; `cuda` alone is the first GPU, `tensorrt` the same with another compiler."""


@dataclass(frozen=True)
class Device:
    """One place; GPUs are counted as CUDA counts them, among those that CUDA_VISIBLE_DEVICES shows."""

    kind: Literal["cpu", "cuda", "tensorrt"]
    index: int = 0

    def __str__(self) -> str:
        """As it is asked for."""
        return "cpu" if self.kind == "cpu" else f"{self.kind}:{self.index}"


CPU = Device("cpu")


def devices(names: str) -> list[Device]:
    """`cuda:0,1` → both, in that order.

    Raises:
        ValueError: this names no device, or one twice.
    """
    if not re.fullmatch(DEVICES, names):
        raise ValueError(f"{names} is no device: cpu, cuda, cuda:1, cuda:0,1, or tensorrt likewise")
    if names == "cpu":
        return [CPU]
    kind, _, numbers = names.partition(":")
    indices = [int(index) for index in numbers.split(",") if index] or [0]
    if len({*indices}) < len(indices):
        raise ValueError(f"{names} names a GPU twice")
    return [Device("tensorrt" if kind == "tensorrt" else "cuda", index) for index in indices]


def one_device(name: str) -> Device:
    """`cuda:1` → that one.

    Raises:
        ValueError: this names no device, or several.
    """
    named = devices(name)
    if len(named) > 1:
        raise ValueError(f"{name} are several devices, here only one is used")
    return named[0]
