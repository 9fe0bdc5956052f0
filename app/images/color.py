"""ICC profiles: the colors of an image to sRGB. Knows nothing about file formats or limits.

The client chooses the profile. So its size is bounded, and a profile that does not fit the image is
ignored.
"""

import io
from functools import lru_cache

from PIL import Image, ImageCms

# Bytes of a profile. The profiles of printers, which are the largest, have half as many.
MAX_BYTES = 2 * 2**20

# Transforms in the cache. A camera writes the same profile into each of its images, and building a
# transform takes milliseconds.
MAX_CACHED = 16

# Levels of 255 by which a profile may change a color and still count as sRGB. The versions of sRGB
# differ by as much.
MAX_SRGB_DIFFERENCE = 2

SRGB = ImageCms.createProfile("sRGB")


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert an RGB, gray or CMYK image to RGB in sRGB.

    Return the image as it is if the profile is sRGB, damaged, too large, or for another mode.
    """
    transform = _transform(profile, image.mode) if len(profile) <= MAX_BYTES else None
    if transform is None:
        return image
    converted = transform.apply(image)
    converted.info.pop("icc_profile", None)
    return converted


@lru_cache(MAX_CACHED)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        transform = ImageCms.ImageCmsTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.ImageCmsProfile(SRGB),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
        return None if mode == "RGB" and _is_identity(transform) else transform
    except Exception:  # noqa: BLE001 (a profile that cannot be read is ignored)
        return None


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    """Return whether the transform leaves a grid of 216 colors unchanged, but for rounding."""
    steps = range(0, 256, 51)
    colors = bytes(level for red in steps for green in steps for blue in steps for level in (red, green, blue))
    grid = Image.frombytes("RGB", (len(colors) // 3, 1), colors)
    return all(
        abs(after - before) <= MAX_SRGB_DIFFERENCE
        for after, before in zip(transform.apply(grid).tobytes(), colors, strict=True)
    )
