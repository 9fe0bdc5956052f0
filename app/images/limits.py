"""What the header of an encoded image may cost, where Pillow sets no bound. Knows bytes only.

Each bound was found by a file that took gigabytes or minutes before a pixel of it was decoded, or long after.
"""

import io
import re
import struct
from collections.abc import Iterator

from app.errors import ImageTooLarge, UnreadableImage

MAX_READS = 20_000
"""Pillow walks through a header in Python, some pieces byte by byte: 32 MiB of it take ten seconds."""

MAX_READS_OF_PIXELS = 1_000_000
"""A second. Runs of a BMP are read byte by byte, and every strip or chunk by itself: a PNG of 32 MiB in the usual
chunks of 8 KiB asks 12,000 times."""

PACKED = {b"iCCP", b"zTXt", b"iTXt"}
"""Chunks of a PNG that are unpacked where they stand, to 1 MiB in 2 ms; one takes 1 KB of a file."""

MAX_PACKED = 16

MAX_PIECES = 65_535
"""Strips, tiles or other values of one tag of a TIFF. Pillow makes an object of each: eight million of them, 32 MB,
took 2.8 GB and 22 s."""

PIECES = {273, 324}
"""Tags of a TIFF: where its strips are, or its tiles (TIFF 6.0, sections 8 and 15)."""

OPAQUE = {1, 2, 7}
"""Types of values that are left as bytes, except for `PIECES`: bytes, text, and what only its writer knows."""

CLASSIC, BIG = ("4xL", "H", "HHL4x"), ("8xQ", "Q", "HHQ8x")
"""A TIFF with offsets of 32 and of 64 bits: where its directory is, how many entries that has, and an entry."""

BIG_TIFF = 43
"""What stands in the place of the 42 of a TIFF whose offsets have 64 bits."""

MAX_SCANNED = 2_000_000_000
"""Pixels of a JPEG times its scans: two seconds. A progressive one has ten; a scan of nothing takes 95 bytes in a file,
and 50 ms in 64 megapixels."""

MIN_SCAN = 10
"""Bytes of a JPEG's scan."""

MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
"""Of a JPEG, with a length behind it; within compressed data, none but those that end it (ITU-T T.81, B.1.1)."""

END, SCAN = b"\xff\xd9", b"\xff\xda"


class File(io.BytesIO):
    """An encoded image that is asked for its bytes only so many times: in Pillow, every loop over pieces reads."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads_left, self._packed_left = MAX_READS, MAX_PACKED

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file.

        Raises:
            UnreadableImage: nobody who means well has so many pieces.
        """
        piece = super().read(size)
        self._reads_left -= 1
        self._packed_left -= size == 8 and piece[4:] in PACKED  # noqa: PLR2004 (a chunk's length and name)
        if self._reads_left < 0 or self._packed_left < 0:
            raise UnreadableImage("The image consists of too many pieces.")
        return piece

    def go_on(self) -> None:
        """The header has been read; pixels are next."""
        self._reads_left = MAX_READS_OF_PIXELS


def check_pieces(data: bytes) -> None:
    """Look for the number of values of each tag in the first directory, if this is a TIFF.

    Raises:
        UnreadableImage: there are more than `MAX_PIECES`.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is not None and max(_counts(data, order), default=0) > MAX_PIECES:
        raise UnreadableImage("The TIFF consists of too many pieces.")


def _counts(tiff: bytes, order: str) -> Iterator[int]:
    """How many values each tag of the first directory has, of those that Pillow makes objects of."""
    # Pillow's rule: it looks for the 43 in the third byte, where big-endian files do not have it.
    start, number, entry = (order + part for part in (BIG if BIG_TIFF in tiff[2:3] else CLASSIC))
    try:
        (place,) = struct.unpack_from(start, tiff)
        (entries,) = struct.unpack_from(number, tiff, place)
    except (struct.error, OverflowError):  # outside of the file; Pillow will say so, too
        return
    place += struct.calcsize(number)
    size = struct.calcsize(entry)
    entries = min(entries, (len(tiff) - place) // size)
    for tag, kind, count in struct.iter_unpack(entry, tiff[place : place + entries * size]):
        if tag in PIECES or kind not in OPAQUE:
            yield count


def check_scans(jpeg: bytes, pixels: int) -> None:
    """Count the scans up to the end of the (first) image, if there can be too many.

    Raises:
        ImageTooLarge: all together they cover more than `MAX_SCANNED` pixels.
    """
    most = MAX_SCANNED // pixels
    if len(jpeg) < MIN_SCAN * most:
        return
    scans, place = 0, 2
    while scans <= most and (marker := MARKER.search(jpeg, place)) and marker[0] != END:
        scans += marker[0] == SCAN
        place = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    if scans > most:
        raise ImageTooLarge(f"The JPEG has over {most} scans, too many for {pixels} pixels.")
