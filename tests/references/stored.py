"""Reads the references, and makes the checkpoints they were computed with."""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.references.draw import draw

COMPUTED = ("relative_position_index", "relative_coords_table", "attn_mask")


class Stored(NamedTuple):
    """One file of references."""

    versions: dict[str, str]
    shapes: dict[str, dict[str, list[int]]]  # of the weights, by network
    arrays: dict[str, NDArray[Any]]  # logits by network, pixels by transform and picture

    def state_dict(self, network: str) -> dict[str, Tensor]:
        """The weights a network had. Computed tables are left out, but for the one that tells torchvision's windows."""
        weights = {}
        for name, shape in self.shapes[network].items():
            if name.endswith("relative_position_index"):
                weights[name] = torch.zeros(shape, dtype=torch.int64)
            elif not name.endswith(COMPUTED):
                weights[name] = torch.from_numpy(draw(name, tuple(shape)))
        return weights


@functools.cache
def stored(library: str) -> Stored:
    """The references of `timm` or `torchvision`."""
    with np.load(Path(__file__).parent / f"{library}.npz") as file:
        arrays = dict(file)
    meta = json.loads(arrays.pop("meta").tobytes())
    return Stored(meta["versions"], meta["shapes"], arrays)
