"""`app/images/decode.py`: bytes become an RGB image or one error."""

import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from app.errors import ImageTooLarge, UnreadableImage, UnsupportedImage
from app.images.decode import FORMATS, MAX_PIXELS, Limits, open_image, shrink, to_rgb
from tests.references.draw import draw_picture
from tests.support.images import encode, header_of_png, png_chunk

LIMITS = Limits(pixels=1_000_000)


def decode(data: bytes) -> Image.Image:
    return to_rgb(open_image(data, LIMITS))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_allowed_format_is_read(kind: str) -> None:
    """An image in each allowed format becomes RGB of its size."""
    image = decode(encode(draw_picture(40, 30), kind))

    assert (image.mode, image.size) == ("RGB", (40, 30))


def test_lossless_formats_keep_every_pixel() -> None:
    """A PNG decodes to exactly the pixels that were encoded."""
    original = draw_picture(40, 30)

    assert np.array_equal(np.asarray(original), np.asarray(decode(encode(original))))


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA"])
def test_other_formats_are_refused(kind: str) -> None:
    """A format that Pillow reads but swin-serve does not is unsupported."""
    with pytest.raises(UnsupportedImage):
        decode(encode(draw_picture(40, 30), kind))


@pytest.mark.parametrize("data", [b"hello, I am a text file\n" * 9, b"\x00", b"<svg xmlns='...'/>", b"%PDF-1.7"])
def test_other_bytes_are_refused(data: bytes) -> None:
    """Bytes that are no image are unsupported."""
    with pytest.raises(UnsupportedImage):
        decode(data)


def test_an_empty_body_is_refused() -> None:
    """The error for an empty body says that it is empty."""
    with pytest.raises(UnreadableImage, match="empty"):
        decode(b"")


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_images_are_refused(kind: str) -> None:
    """Half a file is an error in every format, not half an image."""
    whole = encode(draw_picture(200, 150), kind)

    with pytest.raises((UnreadableImage, UnsupportedImage)):
        decode(whole[: len(whole) // 2])


def test_too_many_pixels_are_refused_by_the_header() -> None:
    """A header that declares 1001 × 1000 pixels is refused before the pixels are decoded."""
    with pytest.raises(ImageTooLarge, match="1001 × 1000"):
        open_image(header_of_png(1001, 1000), LIMITS)


@pytest.mark.parametrize("side", [10_000, 20_000, 2**31 - 1])
def test_decompression_bombs_are_refused(side: int) -> None:
    """Sizes at which Pillow itself warns or raises give the same error."""
    with pytest.raises(ImageTooLarge):
        open_image(header_of_png(side, side), LIMITS)


@pytest.mark.parametrize("side", [(60_000_000, 1), (1, 70_000)])
def test_a_side_without_end_is_refused(side: tuple[int, int]) -> None:
    """A long line of pixels is refused: resampling it would take gigabytes."""
    with pytest.raises(ImageTooLarge):
        open_image(header_of_png(*side), Limits(MAX_PIXELS))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """A photo in any of the eight orientations is turned upright, as Pillow does."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(draw_picture(40, 30), exif=exif)

    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))

    assert np.array_equal(np.asarray(expected), np.asarray(decode(data)))


def test_texts_of_a_header_are_bounded() -> None:
    """A few kilobytes of compressed text in a PNG are not unpacked to dozens of megabytes."""
    texts = PngImagePlugin.PngInfo()
    for number in range(12):
        texts.add_text(f"text {number}", "x" * 1_000_000, zip=True)
    data = encode(draw_picture(8, 8), pnginfo=texts)
    assert len(data) < 2**16

    with pytest.raises(UnreadableImage):
        decode(data)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow's warning of damaged EXIF
def test_damaged_exif_is_ignored() -> None:
    """An image with EXIF that cannot be read is decoded without the EXIF."""
    image = decode(encode(draw_picture(40, 30), "JPEG", exif=b"Exif\x00\x00MM\x00*garbage"))

    assert image.size == (40, 30)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(mode: str) -> None:
    """Transparent pixels are white, and half-transparent black is gray."""
    image = Image.new("RGBA", (3, 1))
    image.putdata([(0, 0, 0, 0), (0, 0, 0, 127), (0, 0, 0, 255)])

    assert np.asarray(decode(encode(image.convert(mode))))[0, :, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_color_is_white(mode: str) -> None:
    """The transparent color of a PNG without an alpha channel becomes white."""
    image = Image.new("RGB", (2, 1), "black")
    image.putpixel((1, 0), (255, 0, 0))
    image = image.convert(mode)
    transparent = image.getpixel((0, 0))

    decoded = np.asarray(decode(encode(image, transparency=transparent)))[0].tolist()

    assert decoded[0] == [255, 255, 255]
    assert decoded[1] != [255, 255, 255]


def test_16_bit_gray_keeps_its_range() -> None:
    """16-bit levels become their upper 8 bits, not white."""
    levels = np.array([[0, 32768, 65535]], np.uint16)

    image = decode(encode(Image.fromarray(levels)))

    assert np.asarray(image)[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    """Bilevel, gray, CMYK and YCbCr images become RGB; white stays white."""
    white = Image.new("RGB", (8, 8), "white").convert(mode)

    image = decode(encode(white, "PNG" if mode in "1L" else "JPEG"))

    assert np.asarray(image).min() >= 250


def png(*, depth: int, color: int, rows: list[bytes], transparent: bytes) -> bytes:
    """Return a PNG that Pillow cannot write: 16 bits with a transparent color."""
    size = struct.pack(">II", len(rows[0]) // (depth // 8 * (3 if color == 2 else 1)), len(rows))
    header = png_chunk(b"IHDR", size + bytes([depth, color, 0, 0, 0]))
    data = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"tRNS", transparent) + data + png_chunk(b"IEND", b"")


def test_a_transparent_level_of_16_bits_is_white() -> None:
    """The transparent level of gray is white, but not the next level with the same upper bits."""
    data = png(depth=16, color=0, rows=[struct.pack(">3H", 1000, 1001, 65535)], transparent=struct.pack(">H", 1000))

    assert np.asarray(decode(data))[0, :, 0].tolist() == [255, 3, 255]


def test_a_transparent_color_of_16_bits_is_white() -> None:
    """The transparent color is white, compared by the bits that Pillow keeps."""
    black, red = struct.pack(">3H", 0, 0, 0), struct.pack(">3H", 65535, 0, 0)
    data = png(depth=16, color=2, rows=[black + red], transparent=red)

    assert np.asarray(decode(data))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("bits", [2, 12])
def test_other_depths_of_jpeg_are_refused_by_their_name(bits: int) -> None:
    """The refusal of a JPEG of another depth, as in medicine, names its bits."""
    data = bytearray(encode(draw_picture(40, 30), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 4] = bits

    with pytest.raises(UnsupportedImage, match=f"{bits} bits per sample"):
        decode(bytes(data))


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
def test_inks_are_read_as_adobe_writes_them(transform: int) -> None:
    """CMYK is read inverted, and YCCK as luma and chroma of the inks (Adobe's technical note 5116)."""
    inks = (40, 120, 140, 30)
    data = bytearray(encode(Image.new("CMYK", (16, 16), inks), "JPEG", quality=100, subsampling=0))
    data[data.index(b"Adobe") + 11] = transform
    cmy, black = np.array(inks[:3], float), inks[3]
    if transform:
        luma, blue, red = 255 - cmy
        cmy = luma + np.array([1.402 * (red - 128), -0.344 * (blue - 128) - 0.714 * (red - 128), 1.772 * (blue - 128)])

    expected = (255 - cmy) * (255 - black) / 255

    assert np.allclose(np.asarray(decode(bytes(data))), expected, atol=3)


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"optimize": True}], ids=str)
def test_jpegs_of_all_kinds_are_read(options: dict[str, Any]) -> None:
    """A JPEG of any coding and sampling decodes to its image."""
    picture = draw_picture(200, 150)

    decoded = decode(encode(picture, "JPEG", quality=95, **options))

    assert np.abs(np.asarray(picture).astype(int) - np.asarray(decoded)).mean() < 3


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_of_several_pictures_the_first_counts(kind: str) -> None:
    """Only the first image counts of an animation, of a TIFF with pages, and of a photo with a second image."""
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])

    red, green, blue = np.asarray(decode(file.getvalue()))[16, 16].tolist()

    assert (red > 240, green < 15, blue < 15) == (True, True, True)


def test_an_animation_s_first_frame_lies_over_white() -> None:
    """Transparent parts of the first frame are white."""
    frame = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    frame.putpixel((3, 3), (255, 0, 0, 255))
    file = io.BytesIO()
    frame.save(file, "GIF", save_all=True, append_images=[Image.new("RGBA", (8, 8), "blue")])

    decoded = decode(file.getvalue())

    assert [decoded.getpixel((0, 0)), decoded.getpixel((3, 3))] == [(255, 255, 255), (255, 0, 0)]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16"])
def test_tiffs_of_all_kinds_are_read(mode: str) -> None:
    """White is white in every mode that has one."""
    white = Image.new("RGB", (8, 8), "white")
    if mode == "LAB":
        white = Image.merge("LAB", [Image.new("L", (8, 8), level) for level in (255, 128, 128)])
    elif mode == "I;16":
        white = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    else:
        white = white.convert(mode)

    assert np.asarray(decode(encode(white, "TIFF"))).min() >= 253


def gray_tiff(bits: int, white_is: int, row: bytes) -> bytes:
    """Return a TIFF of two pixels that Pillow cannot write."""
    values = [(256, 4, 1, 2), (257, 4, 1, 1), (258, 3, 1, bits), (262, 3, 1, white_is), (273, 4, 1, 128)]
    entries = b"".join(struct.pack("<HHLL", *value) for value in values)
    return (b"II*\0" + struct.pack("<LH", 8, len(values)) + entries).ljust(128, b"\0") + row


@pytest.mark.parametrize(
    ("bits", "white_is", "row", "expected"),
    [
        (12, 1, b"\xff\xf8\x00", [255, 127]),
        (16, 1, struct.pack("<2H", 65535, 32768), [255, 127]),
        (16, 0, struct.pack("<2H", 65535, 32768), [0, 128]),
    ],
    ids=["12 bits", "16 bits", "zero is white"],
)
def test_wide_gray_tiffs_keep_their_range(bits: int, white_is: int, row: bytes, expected: list[int]) -> None:
    """The full range is kept of 12 bits (microscopes), and of a zero that is white (scanners)."""
    assert expected == np.asarray(decode(gray_tiff(bits, white_is, row)))[0, :, 0].tolist()


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_samples_without_a_white_are_refused(kind: type) -> None:
    """Floats and wide integers have no defined white, so they are refused instead of guessed."""
    with pytest.raises(UnsupportedImage, match="white"):
        decode(encode(Image.fromarray(np.zeros((8, 8), kind)), "TIFF"))


def test_only_what_is_allowed_is_read() -> None:
    """An image in a supported format that is not in the list is refused by name."""
    picture = draw_picture(8, 8)
    only_png = Limits(pixels=1000, formats=("png",))

    assert open_image(encode(picture), only_png).size == (8, 8)
    with pytest.raises(UnsupportedImage, match="JPEG, which is not read; send PNG"):
        open_image(encode(picture, "JPEG"), only_png)


def test_what_pillow_warns_of_is_not_kept() -> None:
    """Pillow's warnings leave nothing in memory: Python keeps each text, and clients choose the texts."""
    code = (
        "import sys; from PIL import TiffImagePlugin; from app.images.decode import *\n"
        "for number in range(9):\n"
        "    to_rgb(open_image(sys.stdin.buffer.read(133)[:133], Limits(2)))\n"
        "print(getattr(TiffImagePlugin, '__warningregistry__', {}).keys() - {'version'})"
    )
    damaged = b"".join(
        gray_tiff(16, 1, bytes(5)).replace(struct.pack("<HHL", 262, 3, 1), struct.pack("<HHL", 262, 3, 4000 + number))
        for number in range(9)
    )
    done = subprocess.run([sys.executable, "-c", code], input=damaged, capture_output=True, check=True)  # noqa: S603 (our own)

    assert (done.stdout.strip(), done.stderr) == (b"set()", b"")


def test_damage_writes_nothing_to_standard_error() -> None:
    """A damaged image writes nothing to standard error, between the lines of the log."""
    code = (
        "import sys; from app.images.decode import *\n"
        "try: to_rgb(open_image(sys.stdin.buffer.read(), Limits(10**6)))\n"
        "except Exception as error: print(type(error).__name__)"
    )
    whole = encode(Image.effect_noise((99, 99), 50), "TIFF", compression="tiff_lzw")
    damaged = whole[:8] + bytes(4000) + whole[4008:]
    done = subprocess.run([sys.executable, "-c", code], input=damaged, capture_output=True, check=True)  # noqa: S603 (our own)

    assert (done.stdout.strip(), done.stderr) == (b"UnreadableImage", b"")


def test_the_first_image_imports_nothing() -> None:
    """After `configure_pillow`, the first image imports no plugin while other requests wait."""
    code = (
        "import sys; from app.images.decode import *; configure_pillow(); before = set(sys.modules)\n"
        "for data in (b'no image at all', b'GIF89a'):\n"
        "    try: open_image(data, Limits(1))\n"
        "    except Exception: pass\n"
        "print([name for name in set(sys.modules) - before if name.startswith('PIL.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 (our own)

    assert done.stdout.strip() == "[]"


def test_importing_the_decoder_changes_nothing_global() -> None:
    """Pillow and the warning filters are set up by `configure_pillow`, not when the module is imported."""
    code = (
        "import warnings, numpy, pydantic\n"
        "from PIL import AvifImagePlugin, Image, PngImagePlugin, TiffImagePlugin\n"
        "def state():\n"
        "    return (list(warnings.filters), TiffImagePlugin.READ_LIBTIFF, dict(TiffImagePlugin.OPEN_INFO),\n"
        "        PngImagePlugin.MAX_TEXT_MEMORY, AvifImagePlugin.DEFAULT_MAX_THREADS,\n"
        "        'bmp_plain' in Image.DECODERS, Image._initialized)\n"
        "before = state()\n"
        "from app.images.decode import configure_pillow\n"
        "print(state() == before)\n"
        "configure_pillow()\n"
        "print([one == other for one, other in zip(state(), before)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 (our own)

    assert done.stdout.splitlines() == ["True", str([False] * 7)]


def test_a_jpeg_is_shrunk_no_further_than_asked() -> None:
    """A JPEG is shrunk by the largest power of two up to 8 that keeps both sides above the request."""
    image = open_image(encode(draw_picture(1000, 800), "JPEG"), LIMITS)

    shrink(image, (300, 200))

    assert to_rgb(image).size == (500, 400)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_what_is_no_jpeg_is_not_shrunk(kind: str) -> None:
    """Images of other formats keep their size."""
    image = open_image(encode(draw_picture(200, 100), kind), LIMITS)

    shrink(image, (20, 10))

    assert to_rgb(image).size == (200, 100)
