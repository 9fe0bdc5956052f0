"""Conversion of OpenMMLab's Swin (mmpretrain, mmcls) to the authors' names and merging.

OpenMMLab merges with `nn.Unfold`, which orders the four neighbors within each channel. The authors
order the channels within each neighbor, columns first. Version 1 has no other difference. Knows
nothing about files.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from model_export.errors import UnsupportedModel

FIRST = "patch_embed.projection.weight"
BODY = re.compile(r"(patch_embed|stages\.\d+|norm3)\.|absolute_pos_embed$")
RENAMES = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^stages\.", "layers."),
    (r"^norm3\.", "norm."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)
# The authors' order of the four neighbors, which `nn.Unfold` counts along the rows.
COLUMNS_FIRST = (0, 2, 1, 3)


def converted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by the authors' names and in the authors' order of merging.

    Raises:
        UnsupportedModel: the network is a Swin V2.
    """
    if any(name.endswith(".logit_scale") for name in weights):
        raise UnsupportedModel(
            "these are OpenMMLab's names of Swin V2, which is not supported; of OpenMMLab's networks only version 1 is"
        )
    own = {_renamed(name): weight for name, weight in weights.items()}
    return {name: _reordered(weight) if ".downsample." in name else weight for name, weight in own.items()}


def names(names_in_file: Mapping[str, str]) -> dict[str, str]:
    """Return the names in the file, by the authors' names in place of OpenMMLab's."""
    return {_renamed(name): in_file for name, in_file in names_in_file.items()}


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _reordered(weight: Tensor) -> Tensor:
    """Reorder `(…, channels · 4 neighbors)` to `(…, 4 neighbors · channels)`."""
    return weight.unflatten(-1, (-1, 4)).mT[..., COLUMNS_FIRST, :].flatten(-2)
