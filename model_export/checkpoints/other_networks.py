"""Networks that are not Swin classifiers, recognized by names that only their weights have.

Knows nothing about shapes and files.
"""

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from model_export.errors import UnsupportedModel

PEFT = "call merge_and_unload() on the model with the adapter, and save_pretrained() on the result"
# Patterns of names that only one kind of network has, and that kind.
OTHERS = (
    (r"\blora_[AB]\b|\.base_layer\.|\.modules_to_save\.", f"a PEFT adapter; {PEFT}"),
    (r"\.meta_mlp\.", "timm's swinv2_cr, which is another network than Swin V2"),
    (r"\.residual_group\.", "SwinIR, which restores images"),
    (r"(^|\.)swinViT\.", "Swin UNETR, which segments volumes"),
    (
        r"(^|\.)(rpn_head|roi_head|bbox_head|mask_head|decode_head|auxiliary_head|neck|fpn|sem_seg_head|rpn|roi_heads)\.",
        "a network for detection or segmentation",
    ),
    (r"(^|\.)(mask_token$|decoder\.)", "a masked-image-modeling network, which has no head for classes yet"),
    (r"(^|\.)(cls_token|class_token)$", "a Vision Transformer (ViT, DeiT or BEiT)"),
    (r"\.(conv_dw|dwconv|depthwise_conv)\.|\.layer_scale$", "a convolutional network (ConvNeXt)"),
    (r"(^|\.)layer[1-4]\.0\.(conv1|bn1)\.|(^|\.)bn1\.running_mean$", "a ResNet"),
    (r"(^|\.)(conv_stem|features\.\d+\.\d+\.block|features\.denseblock1)\.?", "a convolutional network"),
)


def refuse(names: Mapping[Any, Any]) -> NoReturn:
    """Refuse weights that are not a Swin's.

    Raises:
        UnsupportedModel: always; with a few of the names, and with the kind of network if a name
            shows it.
    """
    if not names:
        raise UnsupportedModel("the checkpoint holds no weights")
    known = _known(names)
    raise UnsupportedModel(f"no Swin Transformer's weights among {first_few(names)}{f'; {known}' if known else ''}")


def refuse_if_known(names: Mapping[Any, Any]) -> None:
    """Refuse weights if a name shows that their network is not a Swin classifier.

    Raises:
        UnsupportedModel: a name belongs to another kind of network.
    """
    if known := _known(names):
        raise UnsupportedModel(f"{known}; only Swin classifiers are exported")


def _known(names: Mapping[Any, Any]) -> str | None:
    for pattern, kind in OTHERS:
        if found := next((str(name) for name in names if re.search(pattern, str(name))), None):
            return f"{found} belongs to {kind}"
    return None


def first_few(names: Mapping[Any, Any]) -> str:
    """Return the first five names as text."""
    first = ", ".join(str(name) for name in list(names)[:5])
    return f"{first}, …" if len(names) > 5 else first  # noqa: PLR2004 (the number of names shown)
