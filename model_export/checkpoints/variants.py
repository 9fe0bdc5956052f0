"""The published variants, and the preprocessing of each source library.

Names are timm's; the names of the authors and of torchvision are mapped to them. Sources: the
authors' configuration files and `data/build.py`, timm's `default_cfgs`, the metadata of
torchvision's weights, and Hugging Face's `microsoft/swin*` repositories. Knows nothing about files.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.bundle.manifest import CenterCrop, Cover, Preprocessing, ShorterSide, SourceKind, Squash
from model_export.network.swin import SwinConfig
from model_export.network.windows import Size

# Mean and standard deviation of ImageNet, in units of 255. Every published Swin was trained with
# them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Variant:
    """One published network shape. Windows have their full size, even if it exceeds the map."""

    version: int
    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    side: int  # side of the input in pixels
    windows: tuple[int, ...]  # side of the windows by stage
    pretrained_windows: tuple[int, ...] = (0, 0, 0, 0)

    @property
    def window_sizes(self) -> tuple[Size, ...]:
        """The windows by stage, (height, width)."""
        return tuple((side, side) for side in self.windows)

    def has_windows(self, windows: Sequence[Size]) -> bool:
        """Return whether these are the variant's windows, in full size or cut to their maps."""
        grids = (self.side // 4 >> stage for stage in range(len(self.windows)))
        wanted = ({side, min(side, grid)} for side, grid in zip(self.windows, grids, strict=True))
        return all(side in sides for (side, _), sides in zip(windows, wanted, strict=True))


SIZES = {  # embed_dim, depths, num_heads
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
# Side in pixels from which published networks are evaluated on whole images, without a crop.
LARGE_SIDE = 384
# Pretrained windows of the networks that were pretrained at 192 pixels and fine-tuned at a larger
# size.
PRETRAINED_AT_192 = (12, 12, 12, 6)


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
    "swinv2_base_window12to16_192to256": _variant(2, "base", 256, 16, PRETRAINED_AT_192),
    "swinv2_base_window12to24_192to384": _variant(2, "base", 384, 24, PRETRAINED_AT_192),
    "swinv2_large_window12_192": _variant(2, "large", 192, 12),
    "swinv2_large_window12to16_192to256": _variant(2, "large", 256, 16, PRETRAINED_AT_192),
    "swinv2_large_window12to24_192to384": _variant(2, "large", 384, 24, PRETRAINED_AT_192),
}
TORCHVISION = {  # torchvision's name → timm's name, and the side in pixels to which the shorter side is resized
    "swin_t": ("swin_tiny_patch4_window7_224", 232),
    "swin_s": ("swin_small_patch4_window7_224", 246),
    "swin_b": ("swin_base_patch4_window7_224", 238),
    "swin_v2_t": ("swinv2_tiny_window8_256", 260),
    "swin_v2_s": ("swinv2_small_window8_256", 260),
    "swin_v2_b": ("swinv2_base_window8_256", 272),
}


def find_variant(name: str) -> Variant | None:
    """Return the variant of this name in any library's spelling; None if there is none.

    For example, `timm/swinv2_tiny_window8_256.ms_in1k` is the variant `swinv2_tiny_window8_256`.
    """
    name = name.rsplit("/", 1)[-1].split(".", maxsplit=1)[0].replace("-", "_")
    # _22k, _22kto1k and _22kto1k_ft are the same network, trained on other data.
    name = re.sub(r"_(in)?22k\w*$", "", name)
    name, _ = TORCHVISION.get(name, (name, 0))
    return VARIANTS.get(name) or VARIANTS.get(name.replace("_patch4", ""))


def variants_with_sizes(
    version: int, embed_dim: int, depths: tuple[int, ...], num_heads: tuple[int, ...]
) -> Iterator[str]:
    """Yield the names of the variants with this shape. They differ in window and input size."""
    for name, variant in VARIANTS.items():
        if (variant.version, variant.embed_dim, variant.depths, variant.num_heads) == (
            version,
            embed_dim,
            depths,
            num_heads,
        ):
            yield name


def describe_network(config: SwinConfig) -> str:
    """Return the name of the published variant with this shape, windows and input size, or the shape in words."""
    for name in variants_with_sizes(config.version, config.embed_dim, config.depths, config.num_heads):
        variant = VARIANTS[name]
        has_its_pretraining = config.version == 1 or variant.pretrained_windows == config.pretrained_window_sizes
        is_its_size = config.input_size == (variant.side, variant.side)
        if is_its_size and has_its_pretraining and variant.has_windows(config.window_sizes):
            return name
    family = "Swin" if config.version == 1 else "Swin V2"
    for name, shape in SIZES.items():
        if shape == (config.embed_dim, config.depths, config.num_heads):
            return f"{family} {name}"
    return f"{family}, {config.embed_dim} channels, depths {', '.join(map(str, config.depths))}"


def published_preprocessing(kind: SourceKind, config: SwinConfig) -> Preprocessing:
    """Return the preprocessing of the source library for a network of this size, published or not.

    - The authors resize the shorter side to 256/224 of the input and crop. At 384 they squash
      (`TEST.CROP: False`).
    - timm keeps 0.9 of the image at 192, 224 and 256, and the whole image at 384.
    - torchvision has a resize of its own for each network. Unpublished networks get the authors'
      ratio.
    - Hugging Face squashes.
    """
    height, width = config.input_size
    is_large = min(height, width) >= LARGE_SIDE
    crop = CenterCrop(height=height, width=width, rounding="half_even")
    match kind:
        case "huggingface":
            return imagenet_preprocessing(Squash(mode="squash", height=height, width=width), None)
        case "original" if is_large:
            return imagenet_preprocessing(Squash(mode="squash", height=height, width=width), None)
        case "timm":
            return imagenet_preprocessing(cover(config.input_size, 1.0 if is_large else 0.9), crop)
        case "torchvision":
            return imagenet_preprocessing(_torchvision_resize(config) or cover(config.input_size, 224 / 256), crop)
        case _:
            return imagenet_preprocessing(cover(config.input_size, 224 / 256), crop)


def imagenet_preprocessing(resize: Squash | ShorterSide | Cover, crop: CenterCrop | None) -> Preprocessing:
    """Return preprocessing with the interpolation and normalization of every published Swin."""
    return Preprocessing(resize=resize, crop=crop, interpolation="bicubic", scale=1 / 255, mean=MEAN, std=STD)


def cover(size: Size, fraction: float) -> ShorterSide | Cover:
    """Return a resize after which a crop of `size` (height, width) keeps a fraction of a side."""
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
