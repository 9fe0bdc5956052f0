"""What the header of an encoded image may cost, where Pillow sets no bound. Knows bytes only.

Each bound was found by a file that took gigabytes or minutes before a pixel of it was decoded, or long after.
"""

import io
import re
import struct

from app.errors import ImageTooLarge, UnreadableImage

MOST_READS = 20_000
"""Pillow walks through a header in Python, some pieces byte by byte: 32 MiB of it take ten seconds. A PNG of 32 MiB in
the usual blocks of 8 KiB asks 12,000 times."""

MOST_PIECES = 65_535
"""Strips or tiles of a TIFF. Pillow makes an object of each: eight million of them, 32 MB, took 2.8 GB and 22 s."""

PIECES = {273, 324}
"""Tags of a TIFF: where its strips are, or its tiles (TIFF 6.0, sections 8 and 15)."""

BIG_TIFF = 43
"""What stands in the place of the 42 of a TIFF whose offsets have 64 bits."""

MOST_SCANNED = 2_000_000_000
"""Pixels of a JPEG times its scans: two seconds. A progressive one has ten; a scan of nothing takes 95 bytes in a file,
and 50 ms in 64 megapixels."""

LEAST_SCAN = 10
"""Bytes of a JPEG's scan."""

MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Of a JPEG; within compressed data, none but those that end it (ITU-T T.81, B.1.1)."""

END, SCAN = b"\xff\xd9", b"\xff\xda"

OTHER_DEPTH = re.compile(rb"\xff\xd8.{,65535}?\xff[\xc0-\xc3]\x00.([\x02-\x07\x09-\x10])", re.DOTALL)
"""The beginning of a JPEG whose frame has other than 8 bits per sample (B.2.2)."""


class File(io.BytesIO):
    """An encoded image that is asked for its bytes only so many times."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file.

        Raises:
            UnreadableImage: nobody who means well has so many pieces.
        """
        self._reads += 1
        if self._reads > MOST_READS:
            raise UnreadableImage("The image consists of too many pieces.")
        return super().read(size)


def check_pieces(data: bytes) -> None:
    """Look for the number of strips and tiles in the first directory, if this is a TIFF.

    Raises:
        UnreadableImage: there are more than `MOST_PIECES`.
    """
    if len(data) <= 4 * MOST_PIECES or data[:2] not in {b"II", b"MM"}:
        return
    order = "<" if data[:2] == b"II" else ">"
    start, number, entry = ("8xQ", "Q", "HHQ8x") if BIG_TIFF in data[2:4] else ("4xL", "H", "HHL4x")
    try:
        (place,) = struct.unpack_from(order + start, data)
        (entries,) = struct.unpack_from(order + number, data, place)
        place += struct.calcsize(order + number)
        size = struct.calcsize(order + entry)
        entries = min(entries, (len(data) - place) // size)
        directory = struct.iter_unpack(order + entry, data[place : place + entries * size])
        pieces = max((count for tag, _, count in directory if tag in PIECES), default=0)
    except struct.error:  # Pillow will say so, too
        return
    if pieces > MOST_PIECES:
        raise UnreadableImage("The TIFF consists of too many pieces.")


def check_scans(jpeg: bytes, pixels: int) -> None:
    """Count the scans up to the end of the (first) image, if there can be too many.

    Raises:
        ImageTooLarge: all together they cover more than `MOST_SCANNED` pixels.
    """
    most = MOST_SCANNED // pixels
    if len(jpeg) < LEAST_SCAN * most:
        return
    scans, place = 0, 2
    while scans <= most and (marker := MARKER.search(jpeg, place)) and marker[0] != END:
        scans += marker[0] == SCAN
        place = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2])
    if scans > most:
        raise ImageTooLarge(f"The JPEG has over {most} scans, too many for {pixels} pixels.")


def other_depth(data: bytes) -> int:
    """Bits per sample of a JPEG that has other than 8; 0 for any other bytes."""
    depth = OTHER_DEPTH.match(data)
    return depth[1][0] if depth else 0
