"""Segments of a JPEG: kinds that are not read, and files without their end. Knows bytes only.

Markers, segments and the numbers of sections are those of ITU-T T.81 (1992).
"""

import re
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

START = b"\xff\xd8"
END = b"\xff\xd9"

# A marker that is followed by a length, or the end. Restarts (D0 to D7) and TEM (01) have no length
# (B.1.1.3).
MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")
RESTART = re.compile(rb"\xff[\xd0-\xd7]")
SCAN, END_CODE, RESTART_INTERVAL, TABLES, ARITHMETIC_TABLES, EXTENSION = 0xDA, 0xD9, 0xDD, 0xC4, 0xCC, 0xC8

FRAMES = set(range(0xC0, 0xD0)) - {TABLES, ARITHMETIC_TABLES, EXTENSION}
PROGRESSIVE = 0xC2
READ_FRAMES = {0xC0, 0xC1, PROGRESSIVE}
READ_COMPONENTS = {1, 3, 4}
BITS = 8
COEFFICIENTS = 64

# The segments that are read of one file.
MAX_SEGMENTS = 20_000

FRAME_KINDS: Mapping[int, str] = {
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical",
    0xC9: "with arithmetic coding",
    0xCA: "with arithmetic coding",
    0xCB: "lossless with arithmetic coding",
    0xCD: "hierarchical with arithmetic coding",
    0xCE: "hierarchical with arithmetic coding",
    0xCF: "hierarchical with arithmetic coding",
}


class Segment(NamedTuple):
    """A marker, its content, and the offset at which the content ends."""

    code: int
    content: bytes
    end: int


class Component(NamedTuple):
    """The sampling factors of a component."""

    across: int
    down: int


class Frame(NamedTuple):
    """The header of the frame (B.2.2)."""

    code: int
    bits: int
    height: int
    width: int
    components: dict[int, Component]

    @classmethod
    def of(cls, segment: Segment) -> "Frame":
        """Parse the header.

        Raises:
            struct.error: the segment is too short.
        """
        bits, height, width, count = struct.unpack_from(">BHHB", segment.content)
        found = [struct.unpack_from(">BBB", segment.content, 6 + 3 * number) for number in range(count)]
        return cls(
            segment.code, bits, height, width, {name: Component(size >> 4, size & 15) for name, size, _ in found}
        )


def segments(data: bytes) -> Iterator[Segment]:
    """Yield the segments up to the end of the (first) image, scans without compressed data."""
    place = len(START)
    while marker := MARKER.search(data, place):
        code = marker[1][0]
        if code == END_CODE:
            yield Segment(code, b"", marker.end())
            return
        end = marker.end() + max(int.from_bytes(data[marker.end() : marker.end() + 2]), 2)
        yield Segment(code, data[marker.end() + 2 : end], end)
        place = end


def kind_not_read(data: bytes) -> str:
    """Return the kind of a JPEG that is not read, in words, or an empty text for any other JPEG."""
    try:
        frame = next((Frame.of(segment) for segment in segments(data) if segment.code in FRAMES), None)
    except struct.error:
        frame = None
    return "" if frame is None else _kind_not_read(frame)


def _kind_not_read(frame: Frame) -> str:
    if frame.code not in READ_FRAMES:
        return FRAME_KINDS[frame.code]
    if frame.bits != BITS:
        return f"with {frame.bits} bits per sample"
    if len(frame.components) not in READ_COMPONENTS:
        return f"with {len(frame.components)} components"
    return "" if frame.height else "whose height follows its pixels (DNL)"


def has_end(data: bytes) -> bool:
    """Return whether the (first) image has its own end marker, not that of a thumbnail."""
    return any(segment.code == END_CODE for segment in segments(data))


def without_end(data: bytes) -> list[bytes]:
    """Return the file without the bytes that replace its missing end, in each possible reading.

    The likeliest reading comes first. The list is empty if the end is there, or if a scan or a
    restart interval is missing.
    """
    bare = data.rstrip(b"\0\xff")
    if not _has_all_scans(bare):
        return []
    # The compressed data of a scan can end in FF 00, which stands for FF.
    stuffed = b"\xff\0"
    return [bare, bare + stuffed] if data.startswith(stuffed, len(bare)) else [bare]


def _has_all_scans(data: bytes) -> bool:
    frame, interval = None, 0
    left: dict[int, dict[int, int]] = {}  # by component and coefficient: the bits that no scan has held yet
    try:
        for number, segment in enumerate(segments(data)):
            if segment.code == END_CODE or segment.end > len(data) or number > MAX_SEGMENTS:
                return False
            if segment.code in FRAMES:
                frame = Frame.of(segment)
                left = {name: dict.fromkeys(range(COEFFICIENTS), BITS) for name in frame.components}
            elif segment.code == RESTART_INTERVAL:
                (interval,) = struct.unpack_from(">H", segment.content)
            elif segment.code == SCAN and frame is not None:
                scanned = _scanned(segment, left, is_progressive=frame.code == PROGRESSIVE)
                if interval and _restarts(data, segment.end) < -(-_units(frame, scanned) // interval) - 1:
                    return False
    except (struct.error, KeyError, IndexError):
        return False
    return bool(left) and not any(any(bits.values()) for bits in left.values())


def _scanned(scan: Segment, left: dict[int, dict[int, int]], *, is_progressive: bool) -> list[int]:
    """Subtract the bits in this scan from `left`, and return the components of the scan (B.2.3)."""
    count = scan.content[0]
    names = [scan.content[1 + 2 * number] for number in range(count)]
    first, last, bits = scan.content[1 + 2 * count : 4 + 2 * count]
    for name in names:
        if is_progressive:
            left[name] |= dict.fromkeys(range(first, min(last, COEFFICIENTS - 1) + 1), bits & 15)
        else:
            left[name] = dict.fromkeys(range(COEFFICIENTS), 0)
    return names


def _restarts(data: bytes, start: int) -> int:
    """Count the restart markers in the compressed data that begins at `start`."""
    end = MARKER.search(data, start)
    return len(RESTART.findall(data, start, end.start() if end else len(data)))


def _units(frame: Frame, scanned: list[int]) -> int:
    """Return the number of minimum coded units in a scan of these components (A.2)."""
    across = 8 * max(component.across for component in frame.components.values())
    down = 8 * max(component.down for component in frame.components.values())
    if len(scanned) == 1:  # a unit is one block of the component
        component = frame.components[scanned[0]]
        across, down = across // component.across, down // component.down
    return -(-frame.width // across) * -(-frame.height // down)
