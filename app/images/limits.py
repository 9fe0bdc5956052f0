"""Limits on the cost of a header, where Pillow has none. Knows bytes only.

Each limit goes back to a file that took gigabytes of memory or minutes of time.
"""

import io
import re
import struct
from collections.abc import Iterator

from app.errors import ImageTooLarge, UnreadableImage

# Reads of a header. Pillow walks through a header in Python, some pieces byte by byte: 32 MiB of
# header take ten seconds.
MAX_READS = 20_000

# Reads of the pixels, which take a second. Runs of a BMP are read byte by byte, and each strip or
# chunk takes a read: a PNG of 32 MiB in the usual chunks of 8 KiB takes 12,000 reads.
MAX_READS_OF_PIXELS = 1_000_000

# Compressed chunks of a PNG. Pillow decompresses them as it reaches them, each up to 1 MiB in 2 ms;
# 1 KB of the file is enough for one.
PACKED = {b"iCCP", b"zTXt", b"iTXt"}
MAX_PACKED = 16

# Strips, tiles or other values of one tag of a TIFF. Pillow makes a Python object of each: eight
# million of them in a file of 32 MB took 2.8 GB and 22 s.
MAX_PIECES = 65_535

# The tags of a TIFF for the offsets of strips and tiles (TIFF 6.0, sections 8 and 15).
PIECES = {273, 324}

# Types of TIFF values that Pillow leaves as bytes, except in the tags `PIECES`: BYTE, ASCII and
# UNDEFINED.
OPAQUE = {1, 2, 7}

# The layouts of a classic TIFF and of a BigTIFF: offset of the directory, number of its entries,
# and an entry.
CLASSIC, BIG = ("4xL", "H", "HHL4x"), ("8xQ", "Q", "HHQ8x")

# The version of a BigTIFF; that of a classic TIFF is 42.
BIG_TIFF = 43

# Pixels of a JPEG times its scans, which take two seconds. A progressive JPEG has ten scans. An
# empty scan takes 95 bytes of a file, and 50 ms in an image of 64 megapixels.
MAX_SCANNED = 2_000_000_000

# Bytes of the shortest scan of a JPEG.
MIN_SCAN = 10

# A marker of a JPEG that is followed by a length. Compressed data contains no such marker except
# the one that ends it (ITU-T T.81, B.1.1).
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")

END, SCAN = b"\xff\xd9", b"\xff\xda"


class BoundedFile(io.BytesIO):
    """An encoded image with a limited number of reads.

    Each loop of Pillow over the pieces of a file reads, so the limit bounds all of them.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads_left, self._packed_left = MAX_READS, MAX_PACKED

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as `io.BytesIO` does.

        Raises:
            UnreadableImage: the limit on reads or on compressed chunks is exceeded.
        """
        piece = super().read(size)
        self._reads_left -= 1
        self._packed_left -= size == 8 and piece[4:] in PACKED  # noqa: PLR2004 (the length and name of a chunk)
        if self._reads_left < 0 or self._packed_left < 0:
            raise UnreadableImage("The image consists of too many pieces.")
        return piece

    def begin_pixels(self) -> None:
        """Apply the limit for pixels from here on. Call this when the header has been read."""
        self._reads_left = MAX_READS_OF_PIXELS


def check_pieces(data: bytes) -> None:
    """Check the number of values of each tag in the first directory, if this is a TIFF.

    Raises:
        UnreadableImage: a tag has more than `MAX_PIECES` values.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is not None and max(_counts(data, order), default=0) > MAX_PIECES:
        raise UnreadableImage("The TIFF consists of too many pieces.")


def _counts(tiff: bytes, order: str) -> Iterator[int]:
    """Yield the number of values of each tag that Pillow makes objects of."""
    # As in Pillow: the 43 is expected in the third byte, where big-endian files do not have it.
    start, number, entry = (order + part for part in (BIG if BIG_TIFF in tiff[2:3] else CLASSIC))
    try:
        (place,) = struct.unpack_from(start, tiff)
        (entries,) = struct.unpack_from(number, tiff, place)
    except (struct.error, OverflowError):  # the directory is outside of the file, which Pillow refuses
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
        ImageTooLarge: all scans together cover more than `MAX_SCANNED` pixels.
    """
    max_scans = MAX_SCANNED // pixels
    if len(jpeg) < MIN_SCAN * max_scans:
        return
    scans, place = 0, 2
    while scans <= max_scans and (marker := MARKER.search(jpeg, place)) and marker[0] != END:
        scans += marker[0] == SCAN
        place = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    if scans > max_scans:
        raise ImageTooLarge(f"The JPEG has over {max_scans} scans, too many for {pixels} pixels.")
