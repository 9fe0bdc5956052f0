"""Bytes → RGB image, within limits. Knows nothing of networks, queues or HTTP.

Everything that can be refused without decoding is refused in `open_image`: a header promises what the pixels will cost,
and a decompression bomb is told from its first few bytes.
"""

import io
from dataclasses import dataclass

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from app.errors import ImageTooLarge, UnreadableImage, UnsupportedImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the formats read; each has a decoder that holds out against hostile input."""

Picture = Image.Image
"""What an image is called by modules that do not know Pillow."""

LONGEST_SIDE = 65_535
"""JPEG's own limit. Resampling takes memory in proportion to a side: a line of millions of pixels, gigabytes."""

EXIF_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""

# Texts in a PNG are unpacked while its header is read, on the event loop for small files: 64 MiB by default.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 2**20

MOST_PIXELS = 89_478_485
"""Above this Pillow warns of a decompression bomb, and at twice as many it refuses: no limit may be higher."""


@dataclass(frozen=True)
class Limits:
    """What an image may cost. `pixels` is width × height."""

    pixels: int
    formats: tuple[str, ...] = FORMATS


def open_image(data: bytes, limits: Limits) -> Image.Image:
    """Read the header only; the pixels are decoded by `to_rgb`.

    Raises:
        UnsupportedImage: no allowed format starts with these bytes.
        UnreadableImage: the header is damaged.
        ImageTooLarge: the header promises more pixels than the limit.
    """
    if not data:
        raise UnreadableImage("The body is empty.")
    try:
        image = Image.open(io.BytesIO(data), formats=limits.formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLarge(f"The image has over {MOST_PIXELS} pixels; {limits.pixels} are allowed.") from None
    except UnidentifiedImageError:
        raise UnsupportedImage(f"The bytes are none of {', '.join(limits.formats)}.") from None
    except Exception as error:  # a damaged header makes decoders raise anything
        raise UnreadableImage("The header of the image is damaged.") from error
    if image.width * image.height > limits.pixels:
        raise ImageTooLarge(f"The image has {image.width} × {image.height} pixels; {limits.pixels} are allowed.")
    if max(image.size) > LONGEST_SIDE:
        raise ImageTooLarge(f"A side of the image has {max(image.size)} pixels; {LONGEST_SIDE} are allowed.")
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode: first frame, upright by its EXIF orientation, alpha over white, 8 bits, RGB.

    Raises:
        UnreadableImage: the data is truncated or corrupt.
    """
    try:
        image.load()
        return _flatten(_upright(image))
    except MemoryError:  # ours, not the caller's
        raise
    except Exception as error:  # corrupt data makes decoders raise anything, SyntaxError and struct.error included
        raise UnreadableImage(f"The {image.format or 'image'} data is truncated or corrupt.") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # noqa: BLE001 (EXIF is advice: however it is damaged, it is then not followed)
        return image
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _to_8_bits(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey (0 … 65535) to 8 bits; Pillow's own conversion clips at 255 and makes the picture white."""
    return image.convert("I").point(lambda value: value / 257).convert("L")
