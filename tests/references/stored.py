"""The reader of the reference files, which also draws the weights of their networks."""

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
    """A reference file."""

    versions: dict[str, str]
    shapes: dict[str, dict[str, list[int]]]  # network → name of the weight → shape
    arrays: dict[str, NDArray[Any]]  # logits and embeddings by network, pixels by transform and image

    def state_dict(self, network: str) -> dict[str, Tensor]:
        """Return the weights of a network.

        Computed tables are omitted, except the table that determines the windows of torchvision.
        """
        weights = {}
        for name, shape in self.shapes[network].items():
            if name.endswith("relative_position_index"):
                weights[name] = torch.zeros(shape, dtype=torch.int64)
            elif not name.endswith(COMPUTED):
                weights[name] = torch.from_numpy(draw(name, tuple(shape)))
        return weights


@functools.cache
def stored(library: str) -> Stored:
    """Read the references of `timm` or `torchvision`."""
    with np.load(Path(__file__).parent / f"{library}.npz") as file:
        arrays = dict(file)
    meta = json.loads(arrays.pop("meta").tobytes())
    return Stored(meta["versions"], meta["shapes"], arrays)
