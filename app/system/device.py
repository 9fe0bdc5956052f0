"""The names of devices on which a network runs: the CPU, and GPUs.

Knows no driver: a name does not mean that the device exists.
"""

import re
from dataclasses import dataclass
from typing import Literal

# The names of one or several devices. `cuda` alone is the first GPU; `tensorrt` is the first GPU
# with another compiler.
DEVICES = r"cpu|(cuda|tensorrt)(:\d{1,3}(,\d{1,3})*)?"


@dataclass(frozen=True)
class Device:
    """One device. `index` numbers the GPUs that CUDA_VISIBLE_DEVICES shows, as CUDA does."""

    kind: Literal["cpu", "cuda", "tensorrt"]
    index: int = 0

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"{self.kind}:{self.index}"


CPU = Device("cpu")


def devices(names: str) -> list[Device]:
    """Return the devices with these names, in their order: `cuda:0,1` are two.

    Raises:
        ValueError: this names no device, or a device twice.
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
    """Return the device with this name, such as `cuda:1`.

    Raises:
        ValueError: this names no device, or several devices.
    """
    named = devices(name)
    if len(named) > 1:
        raise ValueError(f"{name} are several devices; name only one")
    return named[0]
