"""`app/images/color.py`: conversion of colors by ICC profile."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from app.images.color import MAX_BYTES
from app.images.decode import MAX_PIXELS, Limits, open_image, to_rgb
from tests.references.draw import draw_picture
from tests.support.images import encode

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# sRGB with red and green exchanged.
SWAPPED = SRGB.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")


def decode(data: bytes, *, follow_profile: bool = True) -> np.ndarray:
    return np.asarray(to_rgb(open_image(data, Limits(MAX_PIXELS)), follow_profile=follow_profile))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_colors_become_srgb(kind: str) -> None:
    """A profile is followed in every format that has profiles: red in this file is green in sRGB."""
    red, green, blue = decode(encode(Image.new("RGB", (16, 16), "red"), kind, icc_profile=SWAPPED))[8, 8].tolist()

    assert (red < 15, green > 240, blue < 15) == (True, True, True)


def test_the_reference_is_the_library_s_own_conversion() -> None:
    """The conversion is relative colorimetric, as of Pillow's `profileToProfile` on the whole image."""
    picture = draw_picture(60, 40)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(SWAPPED))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    expected = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), intent)

    assert np.array_equal(np.asarray(expected), decode(encode(picture, icc_profile=SWAPPED)))


def test_alpha_and_palettes_keep_their_shape() -> None:
    """A profile applies to colors only: alpha stays as it is, and a palette is looked up first."""
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    half.putpixel((1, 0), (255, 0, 0, 0))

    for image in (half, half.convert("P")):
        decoded = decode(encode(image, icc_profile=SWAPPED))[0].tolist()
        assert decoded[1] == [255, 255, 255]
        assert decoded[0][1] > 240


@pytest.mark.parametrize(
    "profile",
    [SRGB, b"no profile", SWAPPED[:200], SWAPPED.replace(b"RGB ", b"GRAY"), SWAPPED + bytes(MAX_BYTES)],
    ids=["sRGB", "garbage", "truncated", "for gray", "too large"],
)
def test_a_profile_that_says_nothing_changes_nothing(profile: bytes) -> None:
    """The common sRGB profile, and a profile that cannot be used, leave the colors as they are."""
    picture = draw_picture(60, 40)

    assert np.array_equal(np.asarray(picture), decode(encode(picture, "TIFF", icc_profile=profile)))


def test_profiles_can_be_ignored() -> None:
    """Without `follow_profile`, the colors stay as they are, as in most training code."""
    picture = draw_picture(60, 40)

    assert np.array_equal(np.asarray(picture), decode(encode(picture, icc_profile=SWAPPED), follow_profile=False))
