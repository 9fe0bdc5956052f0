"""Bytes → RGB image, within limits. Knows nothing of networks, queues or HTTP.

Everything that can be refused without decoding is refused in `open_image`: a header promises what the pixels will cost,
and a decompression bomb is told from its first few bytes.
"""

import contextlib
import ctypes
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
    _imaging,
    features,
)

from app.errors import ImageTooLarge, ServiceError, UnreadableImage, UnsupportedImage
from app.header import File, check_pieces, check_scans, other_depth
from app.icc import to_srgb

PLUGINS = {
    "jpeg": JpegImagePlugin,
    "png": PngImagePlugin,
    "webp": WebPImagePlugin,
    "gif": GifImagePlugin,
    "bmp": BmpImagePlugin,
    "tiff": TiffImagePlugin,
    "avif": AvifImagePlugin,
}
"""Formats that are read, and what reads them. Imported here, or Pillow would import all it has at the first image."""

FORMATS = tuple(name for name in PLUGINS if name != "avif" or features.check("avif"))
"""Those that this build of Pillow reads."""

Picture = Image.Image
"""What an image is called by modules that do not know Pillow."""

LONGEST_SIDE = 65_535
"""JPEG's own limit. Resampling takes memory in proportion to a side: a line of millions of pixels, gigabytes."""

MOST_PLANES = 6
"""Of a TIFF: each has all the pixels. What covers more of them has strips that lie on others."""

STRAIGHT = {"La": "LA", "RGBa": "RGBA"}
"""Modes whose colours are multiplied by their alpha, as some TIFFs have them, and those that they become."""

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

# Pillow would do it at the first image.
Image.preinit()

# What Pillow has to say of damaged metadata would be in the log, and each text in memory for ever: callers choose them.
warnings.filterwarnings("ignore", module=r"PIL\.")

# libtiff would write what is wrong with a file to standard error, between the lines of the log.
with contextlib.suppress(AttributeError):  # a Pillow without it
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)

# Texts in a PNG are unpacked while its header is read, on the event loop for small files: 64 MiB by default.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 2**20

# Images are decoded side by side already; more threads for one would be taken from the others.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

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
        UnsupportedImage: no allowed format starts with these bytes, or its samples are of a kind that is not read.
        UnreadableImage: the header is damaged.
        ImageTooLarge: the header promises more pixels than the limit, or more work for them than they are worth.
    """
    if not data:
        raise UnreadableImage("The body is empty.")
    check_pieces(data)
    file = File(data)
    try:
        image = Image.open(file, formats=limits.formats)
        _check(image, data, limits)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageTooLarge(f"The image has over {MOST_PIXELS} pixels; {limits.pixels} are allowed.") from None
    except UnidentifiedImageError:
        if bits := other_depth(data):
            raise UnsupportedImage(f"The JPEG has {bits} bits per sample; 8 are read.") from None
        raise UnsupportedImage(f"The bytes are none of {', '.join(limits.formats).upper()}.") from None
    except (MemoryError, ServiceError):  # ours, not the caller's, or said already
        raise
    except Exception as error:  # a damaged header makes decoders raise anything
        raise UnreadableImage("The header of the image is damaged.") from error
    file.go_on()
    return image


def shrink(image: Image.Image, size: tuple[int, int]) -> None:
    """Have a JPEG decoded at a half, a quarter or an eighth of its sides, if no less than `size` is left of it.

    (width, height). Other formats have no such short cut.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(None, size)


def to_rgb(image: Image.Image, *, follow_profile: bool = True) -> Image.Image:
    """Decode: first frame, upright by its EXIF orientation, sRGB by its profile, alpha over white, 8 bits, RGB.

    Raises:
        UnreadableImage: the data is truncated or corrupt.
    """
    try:
        transparent = _transparent_level(image)
        image.load()
        if image.mode.startswith("I;16"):
            image = _to_8_bits(image, transparent)
        elif transparent is not None:
            image.info["transparency"] = transparent
        return _flatten(_upright(image), follow_profile=follow_profile)
    except (MemoryError, ServiceError):  # ours, not the caller's, or said already
        raise
    except Exception as error:  # corrupt data makes decoders raise anything, SyntaxError and struct.error included
        raise UnreadableImage(f"The {image.format or 'image'} data is truncated or corrupt.") from error


def _check(image: Image.Image, data: bytes, limits: Limits) -> None:
    pixels = image.width * image.height
    if not pixels:
        raise UnreadableImage("The image has no pixels.")
    if pixels > limits.pixels:
        raise ImageTooLarge(f"The image has {image.width} × {image.height} pixels; {limits.pixels} are allowed.")
    if max(image.size) > LONGEST_SIDE:
        raise ImageTooLarge(f"A side of the image has {max(image.size)} pixels; {LONGEST_SIDE} are allowed.")
    if image.mode in {"I", "F"}:
        raise UnsupportedImage(
            "The samples of the image are floats or wide integers, of which none is agreed to be white."
        )
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        check_scans(data, pixels)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiles(image, limits)


def _check_tiles(image: TiffImagePlugin.TiffImageFile, limits: Limits) -> None:
    """Tiles are decoded whole, however little of them is in the image; strips as often as they are named."""
    width, height = (image.tag_v2.get(tag) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
    if isinstance(width, int) and isinstance(height, int) and width * height > limits.pixels:
        raise ImageTooLarge(f"A tile of the image has {width} × {height} pixels; {limits.pixels} are allowed.")
    extents = (tile.extents or (0, 0, 0, 0) for tile in image.tile)
    covered = sum((right - left) * (lower - upper) for left, upper, right, lower in extents)
    if covered > MOST_PLANES * image.width * image.height:
        raise UnreadableImage("The strips of the TIFF lie on each other.")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # noqa: BLE001 (EXIF is advice: however it is damaged, it is then not followed)
        return image
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _transparent_level(image: Image.Image) -> int | tuple[int, int, int] | None:
    """The colour that a PNG of 16 bits declares transparent, in the bits that Pillow keeps of each pixel."""
    level = image.info.get("transparency")
    if image.mode == "I;16":
        return level
    if isinstance(level, tuple) and isinstance(image, ImageFile.ImageFile) and image.tile[0].args == "RGB;16B":
        red, green, blue = (part >> 8 for part in level)
        return red, green, blue
    return None


def _to_8_bits(image: Image.Image, transparent: int | tuple[int, int, int] | None) -> Image.Image:
    """16-bit grey by its full range; Pillow's own conversion clips at 255 and makes the picture white.

    A TIFF can have 12 bits, and its zero can be white: of both, Pillow knows nothing in this mode.
    """
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    white = 4095 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else 65535
    levels = np.asarray(image)
    grey = Image.fromarray((levels.astype(np.uint32) * 255 // white).astype(np.uint8))
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        grey = ImageOps.invert(grey)
    if transparent is not None:
        grey.putalpha(Image.fromarray((levels != transparent) * np.uint8(255)))
    grey.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return grey


def _flatten(image: Image.Image, *, follow_profile: bool) -> Image.Image:
    profile = image.info.get("icc_profile") if follow_profile else None
    if image.mode == "RGB" and "transparency" not in image.info:
        return to_srgb(image, profile) if profile else image
    colours, alpha = _split(image)
    if profile:
        colours = to_srgb(colours, profile)
    colours = colours.convert("RGB")
    if alpha is None:
        return colours
    white = Image.new("RGB", image.size, "white")
    white.paste(colours, mask=alpha)
    return white


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours of 8 bits in a mode that profiles are made for (RGB, L, CMYK), and how opaque pixels are if not fully."""
    if image.mode in STRAIGHT:
        image = image.convert(STRAIGHT[image.mode])
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    if image.mode == "1":
        return image.convert("L"), None
    return image if image.mode in {"RGB", "L", "CMYK"} else image.convert("RGB"), None
