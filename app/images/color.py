"""ICC profiles: the colors of a file → sRGB, which is what networks are shown. Knows nothing of files or limits.

A caller chooses the profile, so it is bounded in size, believed only if it fits the picture, and otherwise ignored.
"""

import io
from functools import lru_cache

from PIL import Image, ImageCms

MAX_BYTES = 2 * 2**20
"""Of a profile. Those of printers have half of it."""

MAX_KEPT = 16
"""Transforms that are kept. A camera's profile is the same in all its pictures, and building one takes milliseconds."""

INVISIBLE = 2
"""Levels of 255 by which a profile may change a color and still be called sRGB: its versions differ by as much."""

SRGB = ImageCms.createProfile("sRGB")


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """RGB, gray or CMYK → RGB. As it is, if the profile is sRGB's, damaged, too large, or made for another mode."""
    transform = _transform(profile, image.mode) if len(profile) <= MAX_BYTES else None
    if transform is None:
        return image
    converted = transform.apply(image)
    converted.info.pop("icc_profile", None)
    return converted


@lru_cache(MAX_KEPT)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        transform = ImageCms.ImageCmsTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.ImageCmsProfile(SRGB),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
        return None if mode == "RGB" and _changes_nothing(transform) else transform
    except Exception:  # noqa: BLE001 (a profile is advice: however it is damaged, it is then not followed)
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """On a grid of all colors."""
    steps = range(0, 256, 51)
    colors = bytes(level for red in steps for green in steps for blue in steps for level in (red, green, blue))
    grid = Image.frombytes("RGB", (len(colors) // 3, 1), colors)
    return all(
        abs(after - before) <= INVISIBLE for after, before in zip(transform.apply(grid).tobytes(), colors, strict=True)
    )
