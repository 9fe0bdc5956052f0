"""OpenMMLab's Swin (mmpretrain, mmcls): its names and its order of patch merging → the authors'.

Its networks merge with `nn.Unfold`, which orders the four neighbors within each channel; the authors order channels
within each neighbor, columns first. Nothing else differs for version 1.
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
COLUMNS_FIRST = (0, 2, 1, 3)
"""Of neighbors that are counted along the rows."""


def converted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by the authors' names, merging in their order.

    Raises:
        UnsupportedModel: it is version 2.
    """
    if any(name.endswith(".logit_scale") for name in weights):
        raise UnsupportedModel(
            "these are OpenMMLab's names of Swin V2, which are not read; of OpenMMLab's networks only version 1 is"
        )
    own = {_renamed(name): weight for name, weight in weights.items()}
    return {name: _reordered(weight) if ".downsample." in name else weight for name, weight in own.items()}


def names(in_file: Mapping[str, str]) -> dict[str, str]:
    """Return the names in the file by the authors' names."""
    return {_renamed(name): called for name, called in in_file.items()}


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _reordered(weight: Tensor) -> Tensor:
    """(…, channels · 4 neighbors) → (…, 4 neighbors · channels)."""
    return weight.unflatten(-1, (-1, 4)).mT[..., COLUMNS_FIRST, :].flatten(-2)
