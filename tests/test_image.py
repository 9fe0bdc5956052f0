"""`app/image.py`: bytes become an RGB image, or one clear error."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from app.errors import ImageTooLarge, UnreadableImage, UnsupportedImage
from app.image import FORMATS, MOST_PIXELS, Limits, open_image, to_rgb
from tests.fakes import encode
from tests.references.draw import draw_picture

LIMITS = Limits(pixels=1_000_000)


def decode(data: bytes) -> Image.Image:
    return to_rgb(open_image(data, LIMITS))


def header_of_png(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and holds next to none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_allowed_format_is_read(kind: str) -> None:
    """An image in each allowed format becomes RGB of its size."""
    image = decode(encode(draw_picture(40, 30), kind))

    assert (image.mode, image.size) == ("RGB", (40, 30))


def test_lossless_formats_keep_every_pixel() -> None:
    """PNG bytes decode to the very pixels that were encoded."""
    original = draw_picture(40, 30)

    assert np.array_equal(np.asarray(original), np.asarray(decode(encode(original))))


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA"])
def test_other_formats_are_refused(kind: str) -> None:
    """Pillow reads more than the service does; what is not allowed is unsupported, not tried."""
    with pytest.raises(UnsupportedImage):
        decode(encode(draw_picture(40, 30), kind))


@pytest.mark.parametrize("data", [b"hello, I am a text file\n" * 9, b"\x00", b"<svg xmlns='...'/>", b"%PDF-1.7"])
def test_other_bytes_are_refused(data: bytes) -> None:
    """What is no image is unsupported."""
    with pytest.raises(UnsupportedImage):
        decode(data)


def test_an_empty_body_is_refused() -> None:
    """No bytes at all are told from bytes that are no image."""
    with pytest.raises(UnreadableImage, match="empty"):
        decode(b"")


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_images_are_refused(kind: str) -> None:
    """Half a file is an error in every format, not half a picture."""
    whole = encode(draw_picture(200, 150), kind)

    with pytest.raises((UnreadableImage, UnsupportedImage)):
        decode(whole[: len(whole) // 2])


def test_too_many_pixels_are_refused_by_the_header() -> None:
    """A header that promises 1001 × 1000 pixels is enough: the pixels are never looked at."""
    with pytest.raises(ImageTooLarge, match="1001 × 1000"):
        open_image(header_of_png(1001, 1000), LIMITS)


@pytest.mark.parametrize("side", [10_000, 20_000, 2**31 - 1])
def test_decompression_bombs_are_refused(side: int) -> None:
    """Sizes at which Pillow itself warns or gives up are the same error."""
    with pytest.raises(ImageTooLarge):
        open_image(header_of_png(side, side), LIMITS)


@pytest.mark.parametrize("side", [(60_000_000, 1), (1, 70_000)])
def test_a_side_without_end_is_refused(side: tuple[int, int]) -> None:
    """Few pixels in a line of millions: resampling it would take gigabytes."""
    with pytest.raises(ImageTooLarge):
        open_image(header_of_png(*side), Limits(MOST_PIXELS))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """A photo taken in any of the eight orientations is turned upright, as Pillow itself would."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(draw_picture(40, 30), exif=exif)

    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))

    assert np.array_equal(np.asarray(expected), np.asarray(decode(data)))


def test_texts_of_a_header_are_bounded() -> None:
    """A few kilobytes of compressed text in a PNG cannot be unpacked to dozens of megabytes."""
    texts = PngImagePlugin.PngInfo()
    for number in range(12):
        texts.add_text(f"text {number}", "x" * 1_000_000, zip=True)
    data = encode(draw_picture(8, 8), pnginfo=texts)
    assert len(data) < 2**16

    with pytest.raises(UnreadableImage):
        decode(data)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")  # Pillow's word for what this test is about
def test_damaged_exif_is_ignored() -> None:
    """EXIF is advice: a picture whose EXIF cannot be read is read without."""
    image = decode(encode(draw_picture(40, 30), "JPEG", exif=b"Exif\x00\x00MM\x00*garbage"))

    assert image.size == (40, 30)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white(mode: str) -> None:
    """What is transparent is white, half-transparent ink is half as dark."""
    image = Image.new("RGBA", (3, 1))
    image.putdata([(0, 0, 0, 0), (0, 0, 0, 127), (0, 0, 0, 255)])

    assert np.asarray(decode(encode(image.convert(mode))))[0, :, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_is_white(mode: str) -> None:
    """PNG can declare one colour transparent in modes that have no alpha channel."""
    image = Image.new("RGB", (2, 1), "black")
    image.putpixel((1, 0), (255, 0, 0))
    image = image.convert(mode)
    transparent = image.getpixel((0, 0))

    decoded = np.asarray(decode(encode(image, transparency=transparent)))[0].tolist()

    assert decoded[0] == [255, 255, 255]
    assert decoded[1] != [255, 255, 255]


def test_16_bit_grey_keeps_its_range() -> None:
    """16-bit levels become their upper 8 bits, not white."""
    levels = np.array([[0, 32768, 65535]], np.uint16)

    image = decode(encode(Image.fromarray(levels)))

    assert np.asarray(image)[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode: str) -> None:
    """Bilevel, grey, CMYK and YCbCr images become RGB; white stays white."""
    white = Image.new("RGB", (8, 8), "white").convert(mode)

    image = decode(encode(white, "PNG" if mode in "1L" else "JPEG"))

    assert np.asarray(image).min() >= 250


def test_animations_give_their_first_frame() -> None:
    """Of an animated GIF, the first frame counts."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])

    assert decode(file.getvalue()).getpixel((0, 0)) == (255, 0, 0)
