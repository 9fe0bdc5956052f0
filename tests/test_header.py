"""`app/header.py`: what headers may cost. Each file here took gigabytes or minutes before there were bounds."""

import struct

import pytest
from PIL import Image

from app.errors import ImageTooLarge, UnreadableImage
from app.header import MOST_PIECES, MOST_READS, check_pieces, check_scans
from app.image import MOST_PIXELS, Limits, open_image
from tests.fakes import encode
from tests.references.draw import draw_picture
from tests.test_image import png_chunk

LIMITS = Limits(MOST_PIXELS)


def jpeg_of_comments(count: int) -> bytes:
    whole = encode(draw_picture(8, 8), "JPEG")
    return whole[:2] + b"\xff\xfe\x00\x02" * count + whole[2:]


def png_of_chunks(count: int) -> bytes:
    whole = encode(draw_picture(8, 8))
    return whole[:33] + png_chunk(b"abCd", b"") * count + whole[33:]


@pytest.mark.parametrize(
    "data",
    [jpeg_of_comments(MOST_READS), png_of_chunks(MOST_READS), b"\xff\xd8\xff" + b"\xff" * 2 * MOST_READS],
    ids=["comments", "chunks", "filling"],
)
def test_a_header_of_too_many_pieces_is_refused(data: bytes) -> None:
    """Pieces cost time even if there is nothing in them."""
    with pytest.raises(UnreadableImage, match="too many pieces"):
        open_image(data, LIMITS)


def test_a_header_of_many_pieces_is_read() -> None:
    """A PNG in blocks of a hundred bytes is unusual, and no attack."""
    image = open_image(png_of_chunks(1000), LIMITS)

    assert image.size == (8, 8)


def tiff(order: str, pieces: int, tag: int = 273) -> bytes:
    """A TIFF that has so many pieces, or says so."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    values = [(256, 4, 1, 8000), (257, 4, 1, 8000), (258, 3, 1, 8), (tag, 4, pieces, 64)]
    entries = b"".join(struct.pack(f"{order}HHLL", *value) for value in values)
    directory = struct.pack(f"{order}LH", 8, len(values)) + entries + bytes(4)
    return head + directory + bytes(4 * pieces)


def big_tiff(pieces: int) -> bytes:
    head = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1)
    return head + struct.pack("<HHQQ", 324, 16, pieces, 64) + bytes(8 * pieces)


@pytest.mark.parametrize(
    "data",
    [
        tiff("<", MOST_PIECES + 1),
        tiff(">", MOST_PIECES + 1),
        tiff("<", MOST_PIECES + 1, 324),
        big_tiff(MOST_PIECES + 1),
    ],
    ids=["strips", "other byte order", "tiles", "64-bit offsets"],
)
def test_a_tiff_of_too_many_pieces_is_refused(data: bytes) -> None:
    """Before Pillow makes an object of each."""
    with pytest.raises(UnreadableImage, match="too many pieces"):
        open_image(data, LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        tiff("<", MOST_PIECES),
        big_tiff(MOST_PIECES),
        b"II*\0\xff\xff\xff\xff" + bytes(4 * MOST_PIECES),
        b"MM" + bytes(2**19),
    ],
    ids=["as many as may be", "of 64 bits", "no directory", "nothing"],
)
def test_what_is_no_such_tiff_passes(data: bytes) -> None:
    """The bound refuses what is beyond it, and leaves the rest to Pillow."""
    check_pieces(data)


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    whole = encode(Image.new("L", (1000, 1000)), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + whole[-2:]


def test_a_jpeg_of_too_many_scans_is_refused() -> None:
    """Each costs a pass over all pixels, and next to no bytes."""
    with pytest.raises(ImageTooLarge, match="over 2000 scans"):
        open_image(scans(2000), LIMITS)

    assert open_image(scans(1900), LIMITS).size == (1000, 1000)


def test_only_scans_of_the_image_itself_count() -> None:
    """What looks like scans in a comment, or behind the end, is none: phones append films to their photos."""
    whole = scans(0)
    look_alike = b"\xff\xda\0\x02" * 3000
    comments = (b"\xff\xfe" + struct.pack(">H", len(look_alike) + 2) + look_alike) * 4

    check_scans(whole[:2] + comments + whole[2:] + look_alike * 9, 1_000_000)
