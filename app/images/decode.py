"""Bytes → RGB image, within limits. Knows nothing of networks, queues or HTTP.

Everything that can be refused without decoding is refused in `open_image`: a header promises what the pixels will cost,
and a decompression bomb is told from its first few bytes.
"""

import contextlib
import ctypes
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
from app.images.limits import File, check_pieces, check_scans

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

MAX_PLANES = 6
"""Of a TIFF: each has all the pixels. What covers more of them has strips that lie on others."""

STRAIGHT = {"La": "LA", "RGBa": "RGBA"}
"""Modes whose colors are multiplied by their alpha, as some TIFFs have them, and those that they become."""

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

# What a getexif() of Pillow follows beside EXIF. Other readers do not: the same file would be shown differently.
NOT_EXIF = ("XML:com.adobe.xmp", "xmp", "Raw profile type exif")

# Gray levels of a PNG with fewer than 8 bits: what a level is multiplied with.
PNG_STEPS = {"L;2": 85, "L;4": 17}

# Rows that are hashed at once: a copy of them is made.
ROWS_AT_ONCE = 64

# What takes the place of missing data: were any of it used, the decodings would differ.
FILLINGS = (b"\xaa" * 64, b"\x35\xc6\x1b" * 64, b"")

# Pillow would do it at the first image.
Image.preinit()
bmp.register()

# Uncompressed TIFFs, too, are decoded by libtiff, as other programs do: Pillow's own way takes planes of 16 bits for
# planes of 8.
TiffImagePlugin.READ_LIBTIFF = True

# Kinds of gray that Pillow could read and does not list: `_to_8_bits` knows their white.
for order in (TiffImagePlugin.II, TiffImagePlugin.MM):
    for photometric in (tiff.WHITE_IS_ZERO, tiff.BLACK_IS_ZERO):
        TiffImagePlugin.OPEN_INFO.setdefault((order, photometric, (1,), 1, (12,), ()), ("I;16", "I;12"))
TiffImagePlugin.OPEN_INFO.setdefault((TiffImagePlugin.MM, 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))

# What Pillow has to say of damaged metadata would be in the log, and each text in memory for ever: callers choose them.
warnings.filterwarnings("ignore", module=r"PIL\.")

LIBRARIES = ctypes.CDLL(_imaging.__file__)

# libtiff would write what is wrong with a file to standard error, between the lines of the log.
with contextlib.suppress(AttributeError):  # a Pillow without it
    LIBRARIES.TIFFSetErrorHandler(None)

# Texts in a PNG are unpacked while its header is read, on the event loop for small files: 64 MiB by default.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 2**20

# Images are decoded side by side already; more threads for one would be taken from the others.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

MAX_PIXELS = 89_478_485
"""Above this Pillow warns of a decompression bomb, and at twice as many it refuses: no limit may be higher."""


# What is not damage: ours, not the caller's, or said already.
PASSED_ON = (MemoryError, ServiceError, Image.DecompressionBombError, Image.DecompressionBombWarning)


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
        image = _opened_otherwise(data, limits, error)
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
    with contextlib.suppress(AttributeError):  # a Pillow whose libtiff cannot be asked
        if not LIBRARIES.TIFFIsCODECConfigured(kind.compression):
            raise tiff.refusal(kind)


def _opened(data: bytes, limits: Limits) -> Image.Image:
    file = File(data)
    image: Image.Image = Image.open(file, formats=limits.formats)
    if isinstance(image, BmpImagePlugin.BmpImageFile) and bmp.is_misread(image, data):
        file = File(data)
        image = bmp.PlainBmpFile(file)
    _check(image, data, limits)
    file.go_on()
    return image


def _opened_otherwise(data: bytes, limits: Limits, error: Exception) -> Image.Image | None:
    """Open what Pillow refuses though its pixels are there: a PNG with damage beside them, a BMP with other masks."""
    try:
        if data.startswith(png.SIGNATURE) and "png" in limits.formats and not _is_bound(error):
            mended = png.without_damage(data)
            return None if mended is None else _opened(mended, limits)
        if data.startswith(b"BM") and "bmp" in limits.formats:
            file = File(data)
            image = bmp.PlainBmpFile(file)
            _check(image, data, limits)
            file.go_on()
            return image
    except PASSED_ON as passed_on:
        raise _passed_on(passed_on, limits) from None
    except Exception:  # noqa: BLE001 (it is damaged in other places, too, and refused for what Pillow found)
        return None
    return None


def _is_bound(error: Exception) -> bool:
    """Whether Pillow refused because of a bound of its own on what is unpacked."""
    return "MAX_TEXT" in str(error)


def _refusal(data: bytes, limits: Limits) -> ServiceError:
    """The error for bytes that are not opened: by their kind if that is not read, or else damaged."""
    name = sniff.format_of(data)
    if name not in limits.formats:
        return UnsupportedImage(sniff.sentence(data, limits.formats))
    if name == "jpeg" and (kind := jpeg.kind_not_read(data)):
        return UnsupportedImage(f"A JPEG {kind} is not read; save it as an ordinary JPEG or a PNG.")
    if name == "tiff" and not (kind_of_tiff := tiff.kind_of(data)).is_common:
        return tiff.refusal(kind_of_tiff)
    unread = bmp.refusal(data) if name == "bmp" else None
    return unread or UnreadableImage(f"The header of the {name.upper()} is damaged.")


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
        image, transparent, background = _loaded(image)
        if image.mode.startswith("I;16"):
            image = _to_8_bits(image, transparent)
        elif transparent is not None:
            image.info["transparency"] = transparent
        rgb = _flatten(_upright(image), follow_profile=follow_profile)
        return rgb if background is None else _on_canvas(rgb, background)
    except (MemoryError, ServiceError):  # ours, not the caller's, or said already
        raise
    except Exception as error:  # corrupt data makes decoders raise anything, SyntaxError and struct.error included
        raise UnreadableImage(f"The {image.format or 'image'} data is truncated or corrupt.") from error


Background = tuple[tuple[int, int, int, int], tuple[int, ...]]
"""The part of a canvas that is drawn on, and the color of the rest."""

Loaded = tuple[Image.Image, int | tuple[int, int, int] | None, Background | None]
"""An image with its pixels, the color that is transparent, and what lies behind it if it does not fill its canvas."""


def _loaded(image: Image.Image) -> Loaded:
    """Decode the pixels; of a PNG or JPEG, also if nothing but what they do not need is damaged or missing."""
    file = getattr(image, "fp", None)
    data = file.getvalue() if isinstance(file, File) else b""
    tile = image.tile if isinstance(image, ImageFile.ImageFile) else []
    try:
        loaded = _load(image)
    except (MemoryError, ServiceError):
        raise
    except Exception as error:
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            return _load_without_end(image, data, error, tile)
        mended = png.without_damage(data) if isinstance(image, PngImagePlugin.PngImageFile) else None
        if mended is None or _is_bound(error):
            raise
        again = Image.open(file_of_pixels(mended), formats=("png",))
        if again.size != image.size:
            raise
        loaded, data = _load(again), mended
    if data.endswith(b"\0") and isinstance(image, JpegImagePlugin.JpegImageFile) and not jpeg.has_end(data):
        missing = UnreadableImage("The JPEG data is truncated: zeros stand in its place.")
        return _load_without_end(image, data, missing, tile)
    if isinstance(image, PngImagePlugin.PngImageFile) and png.has_damaged_pixels(data):
        raise UnreadableImage("The PNG data is corrupt: a checksum of its pixels is wrong.")
    return loaded


def file_of_pixels(data: bytes) -> File:
    """A file whose header has been checked before."""
    file = File(data)
    file.go_on()
    return file


def _load(image: Image.Image) -> Loaded:
    transparent, background = _transparent_level(image), _background(image)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _mend_palette(image)
    if isinstance(image, GifImagePlugin.GifImageFile) and image.mode == "L":
        image.palette = None  # Pillow leaves that of the canvas on a frame that has grays of its own
    image.load()
    return image, transparent, background


def _load_without_end(
    image: JpegImagePlugin.JpegImageFile, data: bytes, error: Exception, tile: list[ImageFile._Tile]
) -> Loaded:
    """Decode a JPEG that lacks its end, if it lacks nothing else.

    libjpeg goes on with whatever stands where data is missing. So several fillings are decoded: they only give the same
    pixels if no bit of them is used.
    """
    if kind := jpeg.kind_not_read(data):
        raise UnsupportedImage(f"A JPEG {kind} is not read; save it as an ordinary JPEG or a PNG.") from error
    for whole in jpeg.without_end(data):
        digests = set[bytes]()
        for filling in FILLINGS:
            again = Image.open(file_of_pixels(whole + filling + jpeg.END), formats=("jpeg",))
            # As `shrink` has left it.
            again.decoderconfig, again._size, again.tile = image.decoderconfig, image.size, tile  # noqa: SLF001 (draft() would round otherwise)
            again.load()
            digests.add(_digest(again))
        if len(digests) == 1:
            return again, None, None
    raise error


def _digest(image: Image.Image) -> bytes:
    digest = hashlib.blake2b()
    for top in range(0, image.height, ROWS_AT_ONCE):
        digest.update(image.crop((0, top, image.width, min(top + ROWS_AT_ONCE, image.height))).tobytes())
    return digest.digest()


def _background(image: Image.Image) -> Background | None:
    """What a GIF shows where its first frame does not draw, if that is not transparent: its background color."""
    if not isinstance(image, GifImagePlugin.GifImageFile) or not image.tile:
        return None
    box = image.tile[0].extents
    if box is None or box == (0, 0, *image.size) or "transparency" in image.info:
        return None
    index = image.info.get("background")
    if index is None:  # the file has no palette for the canvas
        return box, (0, 0, 0)
    if image.global_palette is None:  # of grays
        return box, (index, index, index)
    return box, tuple(bytes(image.global_palette.palette[3 * index : 3 * index + 3]).ljust(3, b"\0"))


def _on_canvas(rgb: Image.Image, background: Background) -> Image.Image:
    box, color = background
    canvas = Image.new("RGB", rgb.size, color)
    canvas.paste(rgb.crop(box), box)
    return canvas


def _mend_palette(image: TiffImagePlugin.TiffImageFile) -> None:
    """Some old writers have colors of 8 bits where the format wants 16. libtiff's rule: no value is above 255."""
    colors = image.tag_v2.get(TiffImagePlugin.COLORMAP, ())
    if image.mode in {"P", "PA"} and max(colors, default=0) < 256:  # noqa: PLR2004 (what a byte can be)
        image.palette = ImagePalette.raw("RGB;L", bytes(colors))


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
            f"The samples of the {image.format} are floats or wide integers, of which none is agreed to be white; "
            "save it with 8 or 16 bits."
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
    strips, rows = image.tag_v2.get(TiffImagePlugin.STRIPOFFSETS, ()), image.tag_v2.get(TiffImagePlugin.ROWSPERSTRIP)
    rows = rows if isinstance(rows, int) and 0 < rows < image.height else image.height
    if len(strips) > MAX_PLANES * -(-image.height // rows):
        raise UnreadableImage("The strips of the TIFF lie on each other.")


def _upright(image: Image.Image) -> Image.Image:
    for name in NOT_EXIF:
        image.info.pop(name, None)
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # noqa: BLE001 (EXIF is advice: however it is damaged, it is then not followed)
        return image
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _transparent_level(image: Image.Image) -> int | tuple[int, int, int] | None:
    """The color that a PNG declares transparent in other bits than Pillow keeps of each pixel, in those."""
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
    """16-bit gray by its full range; Pillow's own conversion clips at 255 and makes the picture white.

    A TIFF can have 12 bits, and its zero can be white: of both, Pillow knows nothing in this mode.
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
    """Colors of 8 bits in a mode that profiles are made for (RGB, L, CMYK), and how opaque pixels are if not fully."""
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
