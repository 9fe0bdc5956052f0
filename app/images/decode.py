"""The decoder: image bytes to RGB, within limits. Knows nothing about networks, queues or HTTP.

`open_image` refuses whatever can be refused without decoding. The header declares how many pixels
there are, so a decompression bomb is recognized from its first bytes.
"""

import contextlib
import ctypes
import functools
import hashlib
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
    ImagePalette,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    _imaging,
    features,
)

from app.errors import ImageTooLarge, ServiceError, UnreadableImage, UnsupportedImage
from app.images import bmp, jpeg, png, sniff, tiff
from app.images.color import to_srgb
from app.images.limits import BoundedFile, check_pieces, check_scans

# The supported formats and the plugin that reads each. Importing them here keeps Pillow from
# importing all of its plugins at the first image.
PLUGINS = {
    "jpeg": JpegImagePlugin,
    "png": PngImagePlugin,
    "webp": WebPImagePlugin,
    "gif": GifImagePlugin,
    "bmp": BmpImagePlugin,
    "tiff": TiffImagePlugin,
    "avif": AvifImagePlugin,
}

# The formats that this build of Pillow reads.
FORMATS = tuple(name for name in PLUGINS if name != "avif" or features.check("avif"))

# The name of a decoded image in modules that do not import Pillow.
Picture = Image.Image

# Above this number of pixels Pillow warns of a decompression bomb, and above twice the number it
# raises. No limit may be higher.
MAX_PIXELS = 89_478_485

# JPEG's own limit on a side. Resampling takes memory in proportion to a side: gigabytes for
# millions of pixels.
MAX_SIDE = 65_535

# The largest number of planes in a TIFF. If strips cover more than that, they overlap.
MAX_PLANES = 6

# Modes of some TIFFs with colors multiplied by alpha, and the modes with unmultiplied colors.
STRAIGHT_ALPHA = {"La": "LA", "RGBa": "RGBA"}

EXIF_ORIENTATION = 0x0112
# The transposition that undoes each EXIF orientation.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow's getexif() also reads the orientation from these. Other decoders do not, and would show
# the file differently.
NOT_EXIF = ("XML:com.adobe.xmp", "xmp", "Raw profile type exif")

# Factors from the gray levels of a PNG with fewer than 8 bits to levels of 8 bits.
PNG_STEPS = {"L;2": 85, "L;4": 17}

# Rows that are hashed at a time. Each time makes a copy of them.
ROWS_PER_HASH = 64

# Bytes that are put in the place of missing data. If a decoder used any of them, the results would
# differ.
FILLINGS = (b"\xaa" * 64, b"\x35\xc6\x1b" * 64, b"")

# Bytes of the texts in a PNG, unpacked. Pillow unpacks them while it reads the header, which
# happens on the event loop for small files, and its own limit is 64 MiB.
MAX_PNG_TEXT = 4 * 2**20

# Errors that do not mean damage: memory ran out, or the reason for the refusal is known already.
PASSED_ON = (MemoryError, ServiceError, Image.DecompressionBombError, Image.DecompressionBombWarning)

# The part of a canvas that the first frame draws on, and the color of the rest.
Background = tuple[tuple[int, int, int, int], tuple[int, ...]]

# An image with its pixels, its transparent color, and the background if the image does not fill its
# canvas.
Loaded = tuple[Image.Image, int | tuple[int, int, int] | None, Background | None]


@dataclass(frozen=True)
class Limits:
    """The limits on one image. `pixels` is width × height."""

    pixels: int = MAX_PIXELS
    formats: tuple[str, ...] = FORMATS


@functools.cache
def configure_pillow() -> None:
    """Set up Pillow and its libraries for untrusted images, once per process.

    `open_image` calls this. Call it when a process starts, so that the first image does not have to
    wait for it.
    """
    Image.preinit()
    bmp.register()
    # Pillow's own reader of uncompressed TIFFs takes planes of 16 bits for planes of 8 bits.
    # libtiff reads them right.
    TiffImagePlugin.READ_LIBTIFF = True
    # Kinds of gray that Pillow decodes but does not list. `_to_8_bits` knows which level is white.
    for order in (TiffImagePlugin.II, TiffImagePlugin.MM):
        for photometric in (tiff.WHITE_IS_ZERO, tiff.BLACK_IS_ZERO):
            TiffImagePlugin.OPEN_INFO.setdefault((order, photometric, (1,), 1, (12,), ()), ("I;16", "I;12"))
    TiffImagePlugin.OPEN_INFO.setdefault((TiffImagePlugin.MM, 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))
    # Pillow warns of damaged metadata. Python keeps the text of each warning, and clients choose
    # the texts, so memory would grow without bound.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # libtiff writes errors of a file to standard error, between the lines of the log.
    with contextlib.suppress(AttributeError):  # this build of Pillow has no libtiff
        _libraries().TIFFSetErrorHandler(None)
    PngImagePlugin.MAX_TEXT_MEMORY = MAX_PNG_TEXT
    # Images are decoded in parallel already. More threads for one image would slow down the others.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


@functools.cache
def _libraries() -> ctypes.CDLL:
    """Return the C libraries in Pillow's extension module."""
    return ctypes.CDLL(_imaging.__file__)


def decode_image(data: bytes, limits: Limits | None = None) -> Image.Image:
    """Return the RGB image in `data`: `open_image`, then `to_rgb`.

    Raises:
        UnsupportedImage, UnreadableImage, ImageTooLarge: see `open_image` and `to_rgb`.
    """
    return to_rgb(open_image(data, limits or Limits()))


def open_image(data: bytes, limits: Limits) -> Image.Image:
    """Open an image by its header. `to_rgb` decodes the pixels.

    Raises:
        UnsupportedImage: the bytes start like no allowed format, or the samples are of a kind that
        is not read.
        UnreadableImage: the header is damaged.
        ImageTooLarge: the header declares more pixels than the limit, or too much work for each of
        them.
    """
    configure_pillow()
    if not data:
        raise UnreadableImage("The image is empty.")
    is_tiff = data[:2] in {b"II", b"MM"} and "tiff" in limits.formats and sniff.format_of(data) == "tiff"
    if is_tiff:
        tiff.check_palette(data)
    check_pieces(data)
    if is_tiff:
        _check_kind_of_tiff(data)
    try:
        return _opened(data, limits)
    except PASSED_ON as error:
        raise _passed_on(error, limits) from None
    except Exception as error:  # a damaged header makes decoders raise anything
        image = _opened_despite(error, data, limits)
        if image is not None:
            return image
        raise _refusal(data, limits) from error


def _passed_on(error: Exception, limits: Limits) -> Exception:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return ImageTooLarge(f"The image has over {MAX_PIXELS} pixels; {limits.pixels} are allowed.")
    return error


def _check_kind_of_tiff(data: bytes) -> None:
    tiff.check_kind(data)
    kind = tiff.kind_of(data)
    with contextlib.suppress(AttributeError):  # this build of Pillow has no libtiff
        if not _libraries().TIFFIsCODECConfigured(kind.compression):
            raise tiff.refusal(kind)


def _opened(data: bytes, limits: Limits) -> Image.Image:
    file = BoundedFile(data)
    image: Image.Image = Image.open(file, formats=limits.formats)
    if isinstance(image, BmpImagePlugin.BmpImageFile) and bmp.is_misread(image, data):
        return _opened_plain_bmp(data, limits)
    _check(image, data, limits)
    file.begin_pixels()
    return image


def _opened_plain_bmp(data: bytes, limits: Limits) -> Image.Image:
    file = BoundedFile(data)
    image = bmp.PlainBmpFile(file)
    _check(image, data, limits)
    file.begin_pixels()
    return image


def _opened_despite(error: Exception, data: bytes, limits: Limits) -> Image.Image | None:
    """Open a file that Pillow refuses although its pixels are sound, or return None.

    Such files are a PNG with damage in other chunks, and a BMP with masks that Pillow does not
    know.
    """
    try:
        if data.startswith(png.SIGNATURE) and "png" in limits.formats and not _is_text_limit(error):
            repaired = png.without_damage(data)
            return None if repaired is None else _opened(repaired, limits)
        if data.startswith(b"BM") and "bmp" in limits.formats:
            return _opened_plain_bmp(data, limits)
    except PASSED_ON as passed_on:
        raise _passed_on(passed_on, limits) from None
    except Exception:  # noqa: BLE001 (there is more damage; the refusal names what Pillow found first)
        return None
    return None


def _is_text_limit(error: Exception) -> bool:
    """Return whether Pillow refused a PNG because of its limits on unpacked text."""
    return "MAX_TEXT" in str(error)


def _refusal(data: bytes, limits: Limits) -> ServiceError:
    """Return the error for bytes that cannot be opened: an unsupported kind, or damage."""
    name = sniff.format_of(data)
    if name not in limits.formats:
        return UnsupportedImage(sniff.explain(data, limits.formats))
    if name == "jpeg" and (kind := jpeg.kind_not_read(data)):
        return UnsupportedImage(f"A JPEG {kind} is not read; save it as an ordinary JPEG or a PNG.")
    if name == "tiff" and not (kind_of_tiff := tiff.kind_of(data)).is_common:
        return tiff.refusal(kind_of_tiff)
    unread = bmp.refusal(data) if name == "bmp" else None
    return unread or UnreadableImage(f"The header of the {name.upper()} is damaged.")


def shrink(image: Image.Image, size: tuple[int, int]) -> None:
    """Set a JPEG to be decoded at 1/2, 1/4 or 1/8 of its sides, but no smaller than `size`.

    `size` is (width, height). Images of other formats stay as they are.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        image.draft(None, size)


def to_rgb(image: Image.Image, *, follow_profile: bool = True) -> Image.Image:
    """Decode the first frame of an opened image to RGB with 8 bits.

    The result is upright by its EXIF orientation, in sRGB by its profile, and over white where the
    image is transparent. `image` comes from `open_image`.

    Raises:
        UnreadableImage: the data is truncated or corrupt.
    """
    try:
        image, transparent, background = _loaded(image)
        if image.mode.startswith("I;16"):
            image = _to_8_bits(image, transparent)
        elif transparent is not None:
            image.info["transparency"] = transparent
        rgb = _flatten(_upright(image), follow_profile=follow_profile)
        return rgb if background is None else _on_canvas(rgb, background)
    except (MemoryError, ServiceError):
        raise
    except Exception as error:  # corrupt data makes decoders raise anything, SyntaxError and struct.error included
        raise UnreadableImage(f"The {image.format or 'image'} data is truncated or corrupt.") from error


def _loaded(image: Image.Image) -> Loaded:
    """Decode the pixels, despite damage to parts of a PNG or JPEG that the pixels do not need."""
    file = getattr(image, "fp", None)
    data = file.getvalue() if isinstance(file, BoundedFile) else b""
    tile = image.tile if isinstance(image, ImageFile.ImageFile) else []
    try:
        loaded = _load(image)
    except (MemoryError, ServiceError):
        raise
    except Exception as error:
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            return _load_without_end(image, data, error, tile)
        repaired = png.without_damage(data) if isinstance(image, PngImagePlugin.PngImageFile) else None
        if repaired is None or _is_text_limit(error):
            raise
        again = Image.open(_file_at_pixels(repaired), formats=("png",))
        if again.size != image.size:
            raise
        loaded, data = _load(again), repaired
    if data.endswith(b"\0") and isinstance(image, JpegImagePlugin.JpegImageFile) and not jpeg.has_end(data):
        missing = UnreadableImage("The JPEG data is truncated: it ends with zeros in the place of pixels.")
        return _load_without_end(image, data, missing, tile)
    if isinstance(image, PngImagePlugin.PngImageFile) and png.has_damaged_pixels(data):
        raise UnreadableImage("The PNG data is corrupt: a checksum of its pixels is wrong.")
    return loaded


def _file_at_pixels(data: bytes) -> BoundedFile:
    """Return a file with a header that has been checked already."""
    file = BoundedFile(data)
    file.begin_pixels()
    return file


def _load(image: Image.Image) -> Loaded:
    transparent, background = _transparent_level(image), _background(image)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _widen_palette(image)
    if isinstance(image, GifImagePlugin.GifImageFile) and image.mode == "L":
        image.palette = None  # Pillow leaves the palette of the canvas on a frame with its own gray levels
    image.load()
    return image, transparent, background


def _load_without_end(
    image: JpegImagePlugin.JpegImageFile, data: bytes, error: Exception, tile: list[ImageFile._Tile]
) -> Loaded:
    """Decode a JPEG that lacks its end, if no pixels are missing. Otherwise raise `error`.

    libjpeg decodes any bytes in the place of missing data. So the image is decoded once for each of
    `FILLINGS`: the pixels are equal only if libjpeg needs none of those bytes.
    """
    if kind := jpeg.kind_not_read(data):
        raise UnsupportedImage(f"A JPEG {kind} is not read; save it as an ordinary JPEG or a PNG.") from error
    for whole in jpeg.without_end(data):
        digests = set[bytes]()
        for filling in FILLINGS:
            again = Image.open(_file_at_pixels(whole + filling + jpeg.END), formats=("jpeg",))
            # Keep the size that `shrink` has set.
            again.decoderconfig, again._size, again.tile = image.decoderconfig, image.size, tile  # noqa: SLF001 (draft() would round differently)
            again.load()
            digests.add(_digest(again))
        if len(digests) == 1:
            return again, None, None
    raise error


def _digest(image: Image.Image) -> bytes:
    digest = hashlib.blake2b()
    for top in range(0, image.height, ROWS_PER_HASH):
        digest.update(image.crop((0, top, image.width, min(top + ROWS_PER_HASH, image.height))).tobytes())
    return digest.digest()


def _background(image: Image.Image) -> Background | None:
    """Return the background of a GIF if its first frame is opaque and does not fill the canvas."""
    if not isinstance(image, GifImagePlugin.GifImageFile) or not image.tile:
        return None
    box = image.tile[0].extents
    if box is None or box == (0, 0, *image.size) or "transparency" in image.info:
        return None
    index = image.info.get("background")
    if index is None:  # the canvas has no palette
        return box, (0, 0, 0)
    if image.global_palette is None:  # the palette holds gray levels in order
        return box, (index, index, index)
    return box, tuple(bytes(image.global_palette.palette[3 * index : 3 * index + 3]).ljust(3, b"\0"))


def _on_canvas(rgb: Image.Image, background: Background) -> Image.Image:
    box, color = background
    canvas = Image.new("RGB", rgb.size, color)
    canvas.paste(rgb.crop(box), box)
    return canvas


def _widen_palette(image: TiffImagePlugin.TiffImageFile) -> None:
    """Read a palette as 8-bit colors if all its values are below 256, as libtiff does.

    TIFF 6.0 wants 16 bits, but some old writers store 8.
    """
    colors = image.tag_v2.get(TiffImagePlugin.COLORMAP, ())
    if image.mode in {"P", "PA"} and max(colors, default=0) < 256:  # noqa: PLR2004 (the values of a byte)
        image.palette = ImagePalette.raw("RGB;L", bytes(colors))


def _check(image: Image.Image, data: bytes, limits: Limits) -> None:
    pixels = image.width * image.height
    if not pixels:
        raise UnreadableImage("The image has no pixels.")
    if pixels > limits.pixels:
        raise ImageTooLarge(f"The image has {image.width} × {image.height} pixels; {limits.pixels} are allowed.")
    if max(image.size) > MAX_SIDE:
        raise ImageTooLarge(f"A side of the image has {max(image.size)} pixels; {MAX_SIDE} are allowed.")
    if image.mode in {"I", "F"}:
        raise UnsupportedImage(
            f"The samples of the {image.format} are floats or wide integers, and no level of them is defined as white; "
            "save it with 8 or 16 bits."
        )
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        check_scans(data, pixels)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiles(image, limits)


def _check_tiles(image: TiffImagePlugin.TiffImageFile, limits: Limits) -> None:
    """Refuse a TIFF with pieces that cost more than its pixels.

    A tile is decoded whole, even if only a corner of it is inside the image. A strip is decoded
    each time it is listed.
    """
    width, height = (image.tag_v2.get(tag) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
    if isinstance(width, int) and isinstance(height, int) and width * height > limits.pixels:
        raise ImageTooLarge(f"A tile of the image has {width} × {height} pixels; {limits.pixels} are allowed.")
    strips, rows = image.tag_v2.get(TiffImagePlugin.STRIPOFFSETS, ()), image.tag_v2.get(TiffImagePlugin.ROWSPERSTRIP)
    rows = rows if isinstance(rows, int) and 0 < rows < image.height else image.height
    if len(strips) > MAX_PLANES * -(-image.height // rows):
        raise UnreadableImage("The strips of the TIFF overlap.")


def _upright(image: Image.Image) -> Image.Image:
    for name in NOT_EXIF:
        image.info.pop(name, None)
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # noqa: BLE001 (EXIF that cannot be read is ignored)
        return image
    transpose = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if transpose is None else image.transpose(transpose)


def _transparent_level(image: Image.Image) -> int | tuple[int, int, int] | None:
    """Return the transparent color of a PNG, where Pillow keeps other bits than the file has.

    The color is in the bits that Pillow keeps.
    """
    level = image.info.get("transparency")
    if image.mode == "I;16":
        return level
    args = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else None
    if isinstance(level, tuple) and args == "RGB;16B":
        red, green, blue = (part >> 8 for part in level)
        return red, green, blue
    if isinstance(level, int) and isinstance(args, str) and args in PNG_STEPS:
        return level * PNG_STEPS[args]
    return None


def _to_8_bits(image: Image.Image, transparent: int | tuple[int, int, int] | None) -> Image.Image:
    """Scale 16-bit gray to 8 bits. Pillow's own conversion clips at 255 and makes the image white.

    A TIFF can have 12 bits, and zero can be white. Pillow ignores both in this mode.
    """
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    white = 4095 if tags.get(TiffImagePlugin.BITSPERSAMPLE) == (12,) else 65535
    levels = np.asarray(image)
    gray = Image.fromarray((levels.astype(np.uint32) * 255 // white).astype(np.uint8))
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
        gray = ImageOps.invert(gray)
    if transparent is not None:
        gray.putalpha(Image.fromarray((levels != transparent) * np.uint8(255)))
    gray.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return gray


def _flatten(image: Image.Image, *, follow_profile: bool) -> Image.Image:
    profile = image.info.get("icc_profile") if follow_profile else None
    if image.mode == "RGB" and "transparency" not in image.info:
        return to_srgb(image, profile) if profile else image
    colors, alpha = _split(image)
    if profile:
        colors = to_srgb(colors, profile)
    colors = colors.convert("RGB")
    if alpha is None:
        return colors
    white = Image.new("RGB", image.size, "white")
    white.paste(colors, mask=alpha)
    return white


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colors in a mode that has profiles (RGB, L or CMYK), and the alpha if any."""
    if image.mode in STRAIGHT_ALPHA:
        image = image.convert(STRAIGHT_ALPHA[image.mode])
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    if image.mode == "1":
        return image.convert("L"), None
    return image if image.mode in {"RGB", "L", "CMYK"} else image.convert("RGB"), None
