"""`app/images/limits.py`: limits on headers. Without them, each file here takes gigabytes or minutes."""

import struct
import zlib

import pytest
from PIL import Image

from app.errors import ImageTooLarge, UnreadableImage
from app.images.decode import MAX_PIXELS, Limits, open_image, to_rgb
from app.images.limits import MAX_PACKED, MAX_PIECES, MAX_READS, MAX_READS_OF_PIXELS, check_pieces, check_scans
from tests.references.draw import draw_picture
from tests.support.images import encode, png_chunk

LIMITS = Limits(MAX_PIXELS)


def jpeg_of_comments(count: int) -> bytes:
    whole = encode(draw_picture(8, 8), "JPEG")
    return whole[:2] + b"\xff\xfe\x00\x02" * count + whole[2:]


def png_of_chunks(count: int) -> bytes:
    whole = encode(draw_picture(8, 8))
    return whole[:33] + png_chunk(b"abCd", b"") * count + whole[33:]


@pytest.mark.parametrize(
    "data",
    [jpeg_of_comments(MAX_READS), png_of_chunks(MAX_READS), b"\xff\xd8\xff" + b"\xff" * 2 * MAX_READS],
    ids=["comments", "chunks", "filling"],
)
def test_a_header_of_too_many_pieces_is_refused(data: bytes) -> None:
    """Many empty pieces are refused, because each costs time."""
    with pytest.raises(UnreadableImage, match="too many pieces"):
        open_image(data, LIMITS)


def test_a_header_of_many_pieces_is_read() -> None:
    """A thousand chunks are unusual, but are no attack."""
    image = open_image(png_of_chunks(1000), LIMITS)

    assert image.size == (8, 8)


def test_pixels_may_consist_of_many_pieces() -> None:
    """Pixels may take more reads than a header: Pillow reads the runs of a BMP byte by byte."""
    line = b"\x04\x05" * 160 + b"\0\0"
    header = struct.pack("<IiiHHIIiiII", 40, 640, 480, 1, 8, 1, 480 * len(line), 0, 0, 256, 0) + bytes(1024)
    bmp = b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(header)) + header + line * 480 + b"\0\1"
    assert len(bmp) > 2 * MAX_READS

    assert to_rgb(open_image(bmp, LIMITS)).size == (640, 480)


def test_pixels_of_too_many_pieces_are_refused() -> None:
    """Empty chunks between the pixels are refused: each takes a microsecond and twelve bytes."""
    whole = encode(draw_picture(8, 8))
    first = whole.index(b"IDAT") - 4
    image = open_image(whole[:first] + png_chunk(b"IDAT", b"") * MAX_READS_OF_PIXELS + whole[first:], LIMITS)

    with pytest.raises(UnreadableImage, match="too many pieces"):
        to_rgb(image)


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_a_png_of_too_much_that_is_packed_is_refused(kind: bytes) -> None:
    """A chunk of 1 KB unpacks to 1 MB, and a wrong checksum hides it from Pillow's own limit."""
    whole = encode(draw_picture(8, 8))
    packed = zlib.compress(bytes(2**20 - 1))[:-1] + b"?"
    content = {b"iCCP": b"a\0\0", b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0"}[kind] + packed

    with pytest.raises(UnreadableImage, match="too many pieces"):
        open_image(whole[:33] + png_chunk(kind, content) * (MAX_PACKED + 1) + whole[33:], LIMITS)


def tiff(order: str, pieces: int, tag: int = 273, kind: int = 4) -> bytes:
    """Return a TIFF that declares so many pieces."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    values = [(256, 4, 1, 8000), (257, 4, 1, 8000), (258, 3, 1, 8), (tag, kind, pieces, 64)]
    entries = b"".join(struct.pack(f"{order}HHLL", *value) for value in values)
    directory = struct.pack(f"{order}LH", 8, len(values)) + entries + bytes(4)
    return head + directory + bytes(4 * pieces)


def big_tiff(pieces: int) -> bytes:
    head = b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1)
    return head + struct.pack("<HHQQ", 324, 16, pieces, 64) + bytes(8 * pieces)


@pytest.mark.parametrize(
    "data",
    [
        tiff("<", MAX_PIECES + 1),
        tiff(">", MAX_PIECES + 1),
        tiff("<", MAX_PIECES + 1, 324),
        big_tiff(MAX_PIECES + 1),
        tiff("<", MAX_PIECES + 1, kind=1),
        tiff("<", MAX_PIECES + 1, 320, kind=3),
        tiff(">", MAX_PIECES + 1).replace(b"*", b"+", 1),
    ],
    ids=["strips", "other byte order", "tiles", "64-bit offsets", "offsets of bytes", "palette", "read as 32-bit"],
)
def test_a_tiff_of_too_many_pieces_is_refused(data: bytes) -> None:
    """Too many pieces are refused before Pillow makes an object of each."""
    with pytest.raises(UnreadableImage, match="too many pieces"):
        open_image(data, LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        tiff("<", MAX_PIECES),
        big_tiff(MAX_PIECES),
        b"II*\0\xff\xff\xff\xff" + bytes(4 * MAX_PIECES),
        b"MM" + bytes(2**19),
        b"II*\0",
        b"II+\0" + bytes(4) + b"\xff" * 8,
        tiff("<", MAX_PIECES + 1, 37724, kind=7),
    ],
    ids=[
        "as many as may be",
        "of 64 bits",
        "no directory",
        "nothing",
        "truncated",
        "directory beyond any file",
        "a program's own",
    ],
)
def test_what_is_no_such_tiff_passes(data: bytes) -> None:
    """The check passes everything within the limit, and leaves damage to Pillow."""
    check_pieces(data)


def small_tiff(tags: dict[int, int], rest: bytes) -> bytes:
    """Return a TIFF with these tags; `rest` begins at offset 256."""
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return (b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries).ljust(256, b"\0") + rest


def test_strips_that_lie_on_each_other_are_refused() -> None:
    """A strip is decoded each time it is listed, so kilobytes would take minutes."""
    count, side = 2000, 1000
    data = small_tiff({256: side, 257: side, 258: 8, 262: 1, 273: 256, 278: side - 1}, struct.pack("<L", 256) * count)
    data = data.replace(struct.pack("<HHL", 273, 4, 1), struct.pack("<HHL", 273, 4, count))

    with pytest.raises(UnreadableImage, match="overlap"):
        open_image(data, LIMITS)


def test_a_tile_larger_than_an_image_may_be_is_refused() -> None:
    """A tile is decoded whole, even for an image in its corner: 640 KB took 650 MB."""
    packed = zlib.compress(bytes(2**20))
    tiles = {322: 1024, 323: 1024, 324: 256, 325: len(packed)}
    data = small_tiff({256: 16, 257: 16, 258: 8, 259: 8, 262: 1, **tiles}, packed)

    assert to_rgb(open_image(data, Limits(2**20))).size == (16, 16)
    with pytest.raises(ImageTooLarge, match="tile"):
        open_image(data, Limits(2**20 - 1))


def scans(count: int) -> bytes:
    """Return a progressive JPEG with its last scan repeated."""
    whole = encode(Image.new("L", (1000, 1000)), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + whole[-2:]


def test_a_jpeg_of_too_many_scans_is_refused() -> None:
    """Too many scans are refused: each costs a pass over all pixels, and few bytes."""
    with pytest.raises(ImageTooLarge, match="over 2000 scans"):
        open_image(scans(2000), LIMITS)

    assert open_image(scans(1900), LIMITS).size == (1000, 1000)


def test_no_scan_can_be_hidden() -> None:
    """A marker without a length does not hide the scans that follow it."""
    whole = scans(0)
    place = whole.rindex(b"\xff\xda")
    hidden = b"\xff\x01" + whole[place:-2] * 2000

    with pytest.raises(ImageTooLarge, match="over 2000 scans"):
        check_scans(whole[:-2] + hidden + whole[-2:], 1_000_000)


def test_only_scans_of_the_image_itself_count() -> None:
    """Scans in a comment, or after the end (phones append videos to photos), do not count."""
    whole = scans(0)
    look_alike = b"\xff\xda\0\x02" * 3000
    comments = (b"\xff\xfe" + struct.pack(">H", len(look_alike) + 2) + look_alike) * 4

    check_scans(whole[:2] + comments + whole[2:] + look_alike * 9, 1_000_000)
