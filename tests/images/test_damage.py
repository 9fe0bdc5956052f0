"""Images with missing or damaged parts that their pixels do not need."""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.errors import ImageTooLarge, UnreadableImage, UnsupportedImage
from app.images import jpeg
from app.images.decode import Limits, open_image, shrink, to_rgb
from tests.differential.png import chunk
from tests.references.draw import draw_picture
from tests.support.images import encode

LIMITS = Limits(pixels=1_000_000)
PICTURE = draw_picture(64, 48)
ROWS = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(PICTURE)))
HEADER = struct.pack(">IIBBBBB", 64, 48, 8, 2, 0, 0, 0)


def decode(data: bytes) -> Image.Image:
    return to_rgb(open_image(data, LIMITS))


def png(*extra: bytes, after: Sequence[bytes] = (), end: bytes = chunk(b"IEND", b"")) -> bytes:
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", HEADER), *extra, chunk(b"IDAT", ROWS), *after, end])


ANCILLARY = [b"cHRM", b"pHYs", b"gAMA", b"tEXt", b"zTXt", b"iTXt", b"tIME", b"iCCP", b"sRGB", b"sBIT", b"bKGD", b"hIST"]
ANCILLARY += [b"eXIf", b"tRNS", b"acTL", b"fcTL", b"sPLT", b"cICP", b"prIv"]


@pytest.mark.parametrize("name", ANCILLARY, ids=bytes.decode)
@pytest.mark.parametrize("content", [b"", b"\0", b"\xff\xff", b"name\0\xff broken"], ids=["none", "1", "2", "other"])
@pytest.mark.parametrize("checksum", [None, 1], ids=["right checksum", "wrong checksum"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_damaged_ancillary_chunk_is_left_out(name: bytes, content: bytes, checksum: int | None, place: str) -> None:
    """Any content of an ancillary chunk, before or after the pixels, leaves the pixels of a PNG as they are."""
    damaged = chunk(name, content, checksum)

    decoded = decode(png(damaged) if place == "before" else png(after=[damaged]))

    assert np.array_equal(np.asarray(decoded), np.asarray(PICTURE))


@pytest.mark.parametrize("end", [b"", chunk(b"IEND", b"", 1), chunk(b"IEND", b"")[:6]], ids=["none", "wrong", "half"])
def test_a_png_without_its_end_is_read(end: bytes) -> None:
    """IEND has no content, so a PNG is read if IEND is missing, cut off or has a wrong checksum."""
    assert np.array_equal(np.asarray(decode(png(end=end))), np.asarray(PICTURE))


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"IDAT"], ids=bytes.decode)
def test_a_wrong_checksum_of_a_critical_chunk_is_refused(name: bytes) -> None:
    """The pixels depend on these chunks, so a wrong checksum is an error."""
    data = bytearray(encode(PICTURE.convert("P")))
    length = struct.unpack_from(">I", data, data.index(name) - 4)[0]
    data[data.index(name) + 4 + length] ^= 1

    with pytest.raises(UnreadableImage):
        decode(bytes(data))


def test_a_flipped_bit_of_pixels_is_refused() -> None:
    """A flipped bit is found by its checksum even in stored data, which zlib reads without an error."""
    packing = zlib.compressobj(0)
    stored = bytearray(packing.compress(bytes(48 * 193)) + packing.flush())
    right = zlib.crc32(b"IDAT" + stored)
    stored[4000] ^= 0x80
    whole = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", HEADER), chunk(b"IDAT", bytes(stored), right), chunk(b"IEND", b"")]

    with pytest.raises(UnreadableImage):
        decode(b"".join(whole))


def test_transparency_outlives_damage_beside_it() -> None:
    """Only damaged chunks are left out: a sound tRNS beside one still counts."""
    red, green, blue = np.asarray(PICTURE)[0, 0].tolist()
    transparent = chunk(b"tRNS", struct.pack(">3H", red, green, blue))

    assert decode(png(transparent, chunk(b"cHRM", b""))).getpixel((0, 0)) == (255, 255, 255)


def test_a_bomb_behind_damage_is_still_one() -> None:
    """The size is checked again when the file is opened without its damaged chunks."""
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"cHRM", b"") + chunk(b"IDAT", ROWS)

    with pytest.raises(ImageTooLarge):
        open_image(data, LIMITS)


CODINGS: list[dict[str, Any]] = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"restart_marker_rows": 1},
    {"progressive": True, "restart_marker_rows": 1},
]


@pytest.mark.parametrize("options", CODINGS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("end", [b"", b"\xff", b"\0" * 64, b"\xff\0", b"\0" * 100_000], ids=len)
def test_a_jpeg_that_lacks_only_its_end_is_read(options: dict[str, Any], mode: str, end: bytes) -> None:
    """The pixels are those of the whole file, with any number of zeros in the place of the end."""
    whole = encode(draw_picture(70, 50).convert(mode), "JPEG", **options)

    assert np.array_equal(np.asarray(decode(whole)), np.asarray(decode(whole[:-2] + end)))


@pytest.mark.parametrize("options", CODINGS, ids=str)
@pytest.mark.parametrize("zeros", [0, 500, 5_000])
def test_a_jpeg_that_lacks_more_is_refused(options: dict[str, Any], zeros: int) -> None:
    """If pixels are missing, with or without zeros in their place, they are not guessed."""
    whole = encode(draw_picture(70, 50), "JPEG", **options)
    shown = np.asarray(decode(whole))
    for missing in (6, 12, 25, 60, 150, len(whole) // 2):
        try:
            decoded = decode(whole[:-missing] + bytes(zeros))
        except UnreadableImage:
            continue
        assert np.array_equal(np.asarray(decoded), shown), f"{missing} bytes are missing"


def test_a_progressive_jpeg_without_its_last_scan_is_refused() -> None:
    """The other scans give an image, but not the one that was encoded, so it is an error."""
    whole = encode(draw_picture(70, 50), "JPEG", progressive=True)

    with pytest.raises(UnreadableImage):
        decode(whole[: whole.rindex(b"\xff\xda")])


def test_a_jpeg_without_its_end_is_shrunk_like_others() -> None:
    """A JPEG without its end can be decoded at half of its sides, too."""
    whole = encode(draw_picture(401, 301), "JPEG")
    images = [open_image(data, LIMITS) for data in (whole, whole[:-2])]
    for image in images:
        shrink(image, (150, 110))

    expected, decoded = (np.asarray(to_rgb(image)) for image in images)

    assert expected.shape == (151, 201, 3)
    assert np.array_equal(expected, decoded)


def with_frame(change: Callable[[bytearray, int], None]) -> bytes:
    """Return a JPEG with a changed frame header."""
    data = bytearray(encode(draw_picture(16, 16), "JPEG"))
    change(data, data.index(b"\xff\xc0"))
    return bytes(data)


def marker(code: int) -> Callable[[bytearray, int], None]:
    def change(data: bytearray, place: int) -> None:
        data[place + 1] = code

    return change


def two_components(data: bytearray, place: int) -> None:
    data[place + 9] = 2


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (with_frame(marker(0xC3)), "lossless"),
        (with_frame(marker(0xC5)), "hierarchical"),
        (with_frame(marker(0xCB)), "lossless with arithmetic coding"),
        (with_frame(two_components), "2 components"),
    ],
)
def test_kinds_of_jpeg_are_named(data: bytes, words: str) -> None:
    """The refusal of a JPEG of a kind that is not read names JPEG and the kind."""
    with pytest.raises(UnsupportedImage, match=f"A JPEG .*{words}"):
        decode(data)


def test_a_jpeg_of_other_depth_is_named_behind_a_thumbnail() -> None:
    """The frame of a thumbnail inside the metadata does not count as the frame of the image."""
    thumbnail = io.BytesIO()
    draw_picture(16, 16).save(thumbnail, "JPEG")
    data = bytearray(encode(draw_picture(40, 30), "JPEG", exif=b"Exif\0\0" + thumbnail.getvalue()))
    data[data.rindex(b"\xff\xc0") + 4] = 12

    assert jpeg.kind_not_read(bytes(data)) == "with 12 bits per sample"
