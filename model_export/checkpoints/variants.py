"""The published variants: what a state dict does not say of itself, and how each source's images were prepared.

Names are timm's; the authors' and torchvision's are mapped to them. Sources: the authors' configuration files and
`data/build.py`, timm's `default_cfgs`, torchvision's weights' metadata, Hugging Face's `microsoft/swin*` repositories.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.bundle.manifest import CenterCrop, Cover, Preprocessing, ShorterSide, SourceKind, Squash
from model_export.network.swin import SwinConfig
from model_export.network.windows import Size

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, in units of 255: what every published Swin was trained with."""


@dataclass(frozen=True)
class Variant:
    """One published shape. The windows are those asked for, before they are cut down to the map."""

    version: int
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    side: int  # of the input
    windows: tuple[int, ...]  # by stage
    pretrained_windows: tuple[int, ...] = (0, 0, 0, 0)

    @property
    def window_sizes(self) -> tuple[Size, ...]:
        """By stage, (height, width)."""
        return tuple((side, side) for side in self.windows)

    def has_windows(self, windows: Sequence[Size]) -> bool:
        """Whether these are its windows, cut down to its maps or not."""
        grids = (self.side // 4 >> stage for stage in range(len(self.windows)))
        wanted = ({side, min(side, grid)} for side, grid in zip(self.windows, grids, strict=True))
        return all(side in sides for (side, _), sides in zip(windows, wanted, strict=True))


SIZES = {  # embed_dim, depths, num_heads
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
LARGE = 384
"""Pixels of the inputs that are evaluated without cutting anything off."""

TRAINED_192 = (12, 12, 12, 6)
"""Windows of the networks that were pretrained at 192 pixels and fine-tuned at more."""


def _variant(version: int, size: str, side: int, window: int, pretrained: tuple[int, ...] = (0,) * 4) -> Variant:
    return Variant(version, *SIZES[size], side, (window,) * 4, pretrained)


VARIANTS = {
    "swin_tiny_patch4_window7_224": _variant(1, "tiny", 224, 7),
    "swin_small_patch4_window7_224": _variant(1, "small", 224, 7),
    "swin_base_patch4_window7_224": _variant(1, "base", 224, 7),
    "swin_base_patch4_window12_384": _variant(1, "base", 384, 12),
    "swin_large_patch4_window7_224": _variant(1, "large", 224, 7),
    "swin_large_patch4_window12_384": _variant(1, "large", 384, 12),
    "swin_s3_tiny_224": Variant(1, *SIZES["tiny"], 224, (7, 7, 14, 7)),
    "swin_s3_small_224": Variant(1, *SIZES["small"], 224, (14, 14, 14, 7)),
    "swin_s3_base_224": Variant(1, 96, (2, 2, 30, 2), (3, 6, 12, 24), 224, (7, 7, 14, 7)),
    "swinv2_tiny_window8_256": _variant(2, "tiny", 256, 8),
    "swinv2_tiny_window16_256": _variant(2, "tiny", 256, 16),
    "swinv2_small_window8_256": _variant(2, "small", 256, 8),
    "swinv2_small_window16_256": _variant(2, "small", 256, 16),
    "swinv2_base_window8_256": _variant(2, "base", 256, 8),
    "swinv2_base_window16_256": _variant(2, "base", 256, 16),
    "swinv2_base_window12_192": _variant(2, "base", 192, 12),
    "swinv2_base_window12to16_192to256": _variant(2, "base", 256, 16, TRAINED_192),
    "swinv2_base_window12to24_192to384": _variant(2, "base", 384, 24, TRAINED_192),
    "swinv2_large_window12_192": _variant(2, "large", 192, 12),
    "swinv2_large_window12to16_192to256": _variant(2, "large", 256, 16, TRAINED_192),
    "swinv2_large_window12to24_192to384": _variant(2, "large", 384, 24, TRAINED_192),
}
TORCHVISION = {  # name → timm's, and the shorter side its images are resized to
    "swin_t": ("swin_tiny_patch4_window7_224", 232),
    "swin_s": ("swin_small_patch4_window7_224", 246),
    "swin_b": ("swin_base_patch4_window7_224", 238),
    "swin_v2_t": ("swinv2_tiny_window8_256", 260),
    "swin_v2_s": ("swinv2_small_window8_256", 260),
    "swin_v2_b": ("swinv2_base_window8_256", 272),
}


def named(name: str) -> Variant | None:
    """The variant of this name, in anybody's spelling: `timm/swinv2_tiny_window8_256.ms_in1k` is one, too."""
    name = name.rsplit("/", 1)[-1].split(".", maxsplit=1)[0].replace("-", "_")
    name = re.sub(r"_(in)?22k\w*$", "", name)  # …_22k, …_22kto1k, …_22kto1k_ft: the same network, trained otherwise
    name, _ = TORCHVISION.get(name, (name, 0))
    return VARIANTS.get(name) or VARIANTS.get(name.replace("_patch4", ""))


def fitting(version: int, embed_dim: int, depths: tuple[int, ...], num_heads: tuple[int, ...]) -> Iterator[str]:
    """Names of the variants with these sizes: they differ in window and input."""
    for name, variant in VARIANTS.items():
        if (variant.version, variant.embed_dim, variant.depths, variant.num_heads) == (
            version,
            embed_dim,
            depths,
            num_heads,
        ):
            yield name


def published_recipe(kind: SourceKind, config: SwinConfig) -> Preprocessing:
    """How the source prepares images for the published network of this size, or would for one it has not published.

    - The authors resize the shorter side to 256/224 of the input and crop; at 384 they squash (`TEST.CROP: False`).
    - timm takes 0.9 of the image at 192, 224 and 256, and all of it at 384.
    - torchvision found a size for each network; one it has not published gets the authors' ratio.
    - Hugging Face squashes.
    """
    height, width = config.input_size
    is_large = min(height, width) >= LARGE
    crop = CenterCrop(height=height, width=width, rounding="half_even")
    match kind:
        case "huggingface":
            return recipe(Squash(mode="squash", height=height, width=width), None)
        case "original" if is_large:
            return recipe(Squash(mode="squash", height=height, width=width), None)
        case "timm":
            return recipe(cover(config.input_size, 1.0 if is_large else 0.9), crop)
        case "torchvision":
            return recipe(_torchvision_resize(config) or cover(config.input_size, 224 / 256), crop)
        case _:
            return recipe(cover(config.input_size, 224 / 256), crop)


def recipe(resize: Squash | ShorterSide | Cover, crop: CenterCrop | None) -> Preprocessing:
    """With the interpolation and normalization of every published Swin."""
    return Preprocessing(resize=resize, crop=crop, interpolation="bicubic", scale=1 / 255, mean=MEAN, std=STD)


def cover(size: Size, fraction: float) -> ShorterSide | Cover:
    """A resize after which a crop of `size` (height, width) keeps this fraction of a side; fractions rounded down."""
    height, width = (math.floor(side / fraction) for side in size)
    if height == width:
        return ShorterSide(mode="shorter_side", size=height)
    return Cover(mode="cover", height=height, width=width)


def _torchvision_resize(config: SwinConfig) -> ShorterSide | None:
    for name, side in TORCHVISION.values():
        variant = VARIANTS[name]
        is_this = (variant.version, variant.embed_dim, variant.depths) == (
            config.version,
            config.embed_dim,
            config.depths,
        )
        if is_this and config.input_size == (variant.side, variant.side):
            return ShorterSide(mode="shorter_side", size=side)
    return None
