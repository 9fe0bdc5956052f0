"""Published accuracies on the 50,000 validation images of ImageNet-1k.

Sources: `MODELHUB.md` in the authors' repository (github.com/microsoft/Swin-Transformer), and the metadata of
torchvision's weights. A checkpoint is identified by its published name, one of torchvision by its digest.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import PurePath

from app.bundle.manifest import Manifest
from model_export.checkpoints.variants import find_variant

IMAGENET_CLASSES = 1000

# Name of the authors' file → top-1 and top-5 accuracy, in percent.
AUTHORS = {
    "swin_tiny_patch4_window7_224": (81.2, 95.5),
    "swin_small_patch4_window7_224": (83.2, 96.2),
    "swin_base_patch4_window7_224": (83.5, 96.5),
    "swin_base_patch4_window12_384": (84.5, 97.0),
    "swin_tiny_patch4_window7_224_22kto1k_finetune": (80.9, 96.0),
    "swin_small_patch4_window7_224_22kto1k_finetune": (83.2, 97.0),
    "swin_base_patch4_window7_224_22kto1k": (85.2, 97.5),
    "swin_base_patch4_window12_384_22kto1k": (86.4, 98.0),
    "swin_large_patch4_window7_224_22kto1k": (86.3, 97.9),
    "swin_large_patch4_window12_384_22kto1k": (87.3, 98.2),
    "swinv2_tiny_patch4_window8_256": (81.8, 95.9),
    "swinv2_small_patch4_window8_256": (83.7, 96.6),
    "swinv2_base_patch4_window8_256": (84.2, 96.9),
    "swinv2_tiny_patch4_window16_256": (82.8, 96.2),
    "swinv2_small_patch4_window16_256": (84.1, 96.8),
    "swinv2_base_patch4_window16_256": (84.6, 97.0),
    "swinv2_base_patch4_window12to16_192to256_22kto1k_ft": (86.2, 97.9),
    "swinv2_base_patch4_window12to24_192to384_22kto1k_ft": (87.1, 98.2),
    "swinv2_large_patch4_window12to16_192to256_22kto1k_ft": (86.9, 98.0),
    "swinv2_large_patch4_window12to24_192to384_22kto1k_ft": (87.6, 98.3),
}
# First 8 digits of the file's SHA-256, which are also the end of its name → top-1 and top-5 accuracy, in percent.
TORCHVISION = {
    "704ceda3": (81.474, 95.776),  # swin_t
    "5e29d889": (83.196, 96.360),  # swin_s
    "68c6b09e": (83.582, 96.640),  # swin_b
    "b137f0e2": (82.072, 96.132),  # swin_v2_t
    "637d8ceb": (83.712, 96.816),  # swin_v2_s
    "781e5279": (84.112, 96.864),  # swin_v2_b
}


@dataclass(frozen=True)
class Published:
    """The published top-1 and top-5 accuracy, as shares of the validation images, with their source."""

    top1: float
    top5: float
    source: str


def published(manifest: Manifest) -> Published | None:
    """Return the published accuracy of a checkpoint.

    Return None if there is none, or if the bundle has other classes or another input size.
    """
    source, variant = manifest.source, find_variant(manifest.source.id.removesuffix(".pth"))
    if manifest.classes != IMAGENET_CLASSES or (variant and manifest.input_height != variant.side):
        return None
    match source.kind:
        case "torchvision":
            return _published(TORCHVISION.get(source.weights_sha256[:8]), "torchvision's documentation")
        case "original":
            file = PurePath(source.id).stem
        case "timm":
            file = BY_TIMM.get(source.id, "")
        case "huggingface":
            file = BY_HUGGINGFACE.get(source.id, "")
    return _published(AUTHORS.get(file), "the authors' model table")


def _published(percent: tuple[float, float] | None, source: str) -> Published | None:
    return Published(round(percent[0] / 100, 5), round(percent[1] / 100, 5), source) if percent else None


def _timm(file: str) -> str:
    """Return timm's name: `swinv2_tiny_patch4_window8_256` → `timm/swinv2_tiny_window8_256.ms_in1k`."""
    name, fine_tuned = re.subn(r"_22kto1k.*", "", file)
    name = name.replace("_patch4", "") if name.startswith("swinv2") else name
    return f"timm/{name}.{'ms_in22k_ft_in1k' if fine_tuned else 'ms_in1k'}"


def _huggingface(file: str) -> str:
    """Return the Hugging Face name. For version 1, it does not contain the data set of the pretraining."""
    return f"microsoft/{file.removesuffix('_22kto1k').replace('_', '-')}"


BY_TIMM = {_timm(file): file for file in AUTHORS}
# Without swin-base-*: two files of the authors have the same Hugging Face name.
NAME_COUNTS = Counter(map(_huggingface, AUTHORS))
BY_HUGGINGFACE = {name: file for file in AUTHORS if NAME_COUNTS[name := _huggingface(file)] == 1}
