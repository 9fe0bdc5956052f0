"""Kinds of images that are easily misread or are refused by name. `test_differential.py` has all kinds."""

import struct
import zlib

import numpy as np
import pytest
from PIL import PngImagePlugin

from app.errors import UnreadableImage, UnsupportedImage
from app.images.decode import Limits, open_image, to_rgb
from tests.differential import bmp, gif, tiff
from tests.differential.matrix import Case
from tests.differential.png import chunk
from tests.references.draw import draw_picture
from tests.support.images import encode

LIMITS = Limits(pixels=1_000_000)
Tiff = tiff.Kind


def distance(case: Case) -> float:
    """Return the mean difference between the decoded and the expected pixels, in levels of 255."""
    decoded = np.asarray(to_rgb(open_image(case.data, LIMITS))).astype(int)
    assert decoded.shape == case.shown.shape
    return float(np.abs(decoded - case.shown).mean())


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("layout", ["strips", "one strip", "tiles"])
@pytest.mark.parametrize("alpha", ["", "associated", "unassociated"])
def test_separate_planes_of_16_bits_are_read(order: str, layout: str, alpha: str) -> None:
    """Planes of 16 bits, compressed or not, in both byte orders, are not read as planes of bytes."""
    for compression in ("none", "deflate"):
        kind = Tiff(depth=16, separate=True, order=order, layout=layout, alpha=alpha, compression=compression)
        assert distance(tiff.make(kind)) < 1


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("map_bits", [8, 16])
def test_color_maps_of_8_and_16_bits_are_read(depth: int, map_bits: int) -> None:
    """A color map with all values below 256 has colors of 8 bits."""
    assert distance(tiff.make(Tiff("palette", depth, map_bits=map_bits))) < 1


@pytest.mark.parametrize("photometric", ["gray", "white-is-zero"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("depth", [12, 16])
def test_wide_gray_is_read_in_both_byte_orders(photometric: str, order: str, depth: int) -> None:
    """White is the highest level or zero, as its tag says."""
    assert distance(tiff.make(Tiff(photometric, depth, order=order))) < 1


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Tiff("gray", 8, sample_format=2), "8-bit signed gray"),
        (Tiff("rgb", 12), "12-bit RGB samples"),
        (Tiff("rgb", 16, sample_format=3, separate=True), "16-bit floating-point RGB samples in separate planes"),
        (Tiff("lab", 8, separate=True), r"8-bit L\*a\*b\* samples in separate planes"),
        (Tiff("gray", 8, alpha="unassociated", separate=True), "8-bit gray and 1 extra samples in separate planes"),
        (Tiff("palette", 16), "16-bit palette"),
        (Tiff("cmyk", 32), "32-bit CMYK"),
        (Tiff(big=True, order=">"), "BigTIFF in big-endian"),
    ],
)
def test_kinds_of_tiff_are_named(kind: Tiff, words: str) -> None:
    """A kind that is not read is refused by its header, and the message names bits, color and planes."""
    with pytest.raises(UnsupportedImage, match=f"TIFF .*?{words}|{words}"):
        open_image(tiff.make(kind).data, LIMITS)


@pytest.mark.parametrize(("number", "name"), [(34887, "LERC"), (34712, "JPEG 2000"), (50002, "JPEG XL"), (9, "JBIG")])
def test_compressions_of_tiff_are_named(number: int, name: str) -> None:
    """The refusal of a compression that is not read names the compression."""
    whole = tiff.make(Tiff()).data
    entry = struct.pack("<HHL", 259, 3, 1)

    with pytest.raises(UnsupportedImage, match=f"TIFF .*{name} compression"):
        open_image(whole.replace(entry + struct.pack("<H", 1), entry + struct.pack("<H", number)), LIMITS)


def without_tag(data: bytes, tag: int) -> bytes:
    """Return the TIFF with the number of a private tag in the place of the given tag."""
    return data.replace(struct.pack("<H", tag), struct.pack("<H", 60_000), 1)


def test_a_tiff_that_does_not_tell_black_from_white_is_refused() -> None:
    """Readers disagree on a TIFF without this tag, so swin-serve does not guess."""
    with pytest.raises(UnsupportedImage, match="PhotometricInterpretation"):
        open_image(without_tag(tiff.make(Tiff("gray")).data, 262), LIMITS)


def test_a_fax_without_that_tag_is_read() -> None:
    """White is zero in a fax without the tag."""
    case = tiff.make(Tiff("white-is-zero", 1, compression="group4"))

    assert distance(case._replace(data=without_tag(case.data, 262))) < 1


def test_a_tiff_without_its_size_is_named() -> None:
    """The refusal of a TIFF without a required tag names the tag."""
    with pytest.raises((UnsupportedImage, UnreadableImage), match="TIFF without the tag ImageLength"):
        open_image(without_tag(tiff.make(Tiff()).data, 257), LIMITS)


@pytest.mark.parametrize("depth", [16, 32])
def test_any_bit_masks_of_a_bmp_are_read(depth: int) -> None:
    """Masks of any width and order are read, with and without alpha, bottom-up and top-down."""
    for header, top_down in ((108, False), (124, True)):
        for masks in bmp.MASKS[depth]:
            assert distance(bmp.make(bmp.Kind(depth, header, masks, top_down))) <= 2


@pytest.mark.parametrize("depth", [4, 8])
def test_a_palette_of_black_and_white_leaves_indices_indices(depth: int) -> None:
    """Pixels with a palette of two colors and 4 or 8 bits are not read as single bits."""
    assert distance(bmp.make(bmp.Kind(depth, gray=True, colors=2))) < 1


def test_masks_that_overlap_are_not_read_and_not_called_damage() -> None:
    """The refusal of overlapping masks names the masks, and does not call them damage."""
    kind = bmp.Kind(32, 108, (0xFF0000, 0xFFFF00, 0xFF, 0))

    with pytest.raises(UnsupportedImage, match="BMP of 32 bits with the masks FF0000 FFFF00"):
        open_image(bmp.make(kind).data, LIMITS)


@pytest.mark.parametrize(("compression", "words"), [(4, "JPEG inside"), (5, "PNG inside")])
def test_kinds_of_bmp_are_named(compression: int, words: str) -> None:
    """The refusal of a BMP with an image inside names the format of that image."""
    data = bytearray(bmp.make(bmp.Kind(24)).data)
    data[30:34] = struct.pack("<I", compression)

    with pytest.raises(UnsupportedImage, match=f"BMP with {words}"):
        open_image(bytes(data), LIMITS)


def test_a_truncated_bmp_of_masks_is_refused() -> None:
    """A BMP with missing rows is an error."""
    data = bmp.make(bmp.Kind(16, 56, (0xF00, 0xF0, 0xF, 0xF000))).data

    with pytest.raises(UnreadableImage):
        to_rgb(open_image(data[:-10], LIMITS))


@pytest.mark.parametrize("transparent", [False, True])
def test_a_gray_palette_of_a_frame_is_its_own(*, transparent: bool) -> None:
    """A frame with a palette of 256 grays is not shown in the colors of the canvas."""
    kind = gif.Kind(gif.BOXES[0], local=True, gray=True, bits=8, transparent=transparent)

    assert distance(gif.make(kind)) < 1


@pytest.mark.parametrize("box", gif.BOXES[1:])
@pytest.mark.parametrize("background", [0, 3])
def test_the_background_of_a_gif_is_its_own_color(box: tuple[int, int, int, int], background: int) -> None:
    """Outside of the first frame is the background color of the canvas (GIF89a, section 18)."""
    assert distance(gif.make(gif.Kind(box, local=True, background=background))) < 1


def test_only_exif_turns_a_picture() -> None:
    """An orientation in XMP is ignored, as libvips and OpenCV do."""
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    picture = draw_picture(40, 30)

    decoded = to_rgb(open_image(encode(picture, pnginfo=texts), LIMITS))

    assert np.array_equal(np.asarray(picture), np.asarray(decoded))


@pytest.mark.parametrize("depth", [2, 4])
def test_a_transparent_level_of_few_bits_is_white(depth: int) -> None:
    """The level in `tRNS` is in the levels of the file, not in the levels of a byte."""
    rows = bytes([0b00011011]) if depth == 2 else bytes.fromhex("0123456789abcdef")
    data = one_row_of_gray(depth, rows, transparent=1)

    shown = np.asarray(to_rgb(open_image(data, LIMITS)))[0, :, 0].tolist()

    assert shown == [255 if level == 1 else level * 255 // (2**depth - 1) for level in range(2**depth)]


def one_row_of_gray(depth: int, row: bytes, *, transparent: int) -> bytes:
    """Return a PNG of one row with each level once."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2**depth, 1, depth, 0, 0, 0, 0))
    level = chunk(b"tRNS", struct.pack(">H", transparent))
    return b"\x89PNG\r\n\x1a\n" + header + level + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
