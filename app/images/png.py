"""Chunks of a PNG: which are damaged, and the file without those that the pixels do not need. Knows bytes only.

Names and sizes are those of the PNG specification, third edition (W3C, 2025).
"""

import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Chunks of one file that are looked at. A PNG of 32 MiB in the usual chunks of 8 KiB has 4,096.
MAX_CHUNKS = 20_000

# Bytes of an ICC profile, unpacked. Pillow has the same bound for any chunk.
MAX_PROFILE = 2**20

# The bit of the first letter of a chunk's name that is set if a decoder may ignore the chunk (5.4).
ANCILLARY = 0x20

END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))

# The fewest bytes of tRNS by color type: a gray level, and a color. A palette can have any number of them.
MIN_TRANSPARENCY = {0: 2, 2: 6}


class Chunk(NamedTuple):
    """One chunk, and whether its checksum is right; none if the file ends before it."""

    name: bytes
    content: bytes
    whole: bytes
    is_sound: bool | None


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks up to IEND, or as far as the file has any."""
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if not name.isalpha():
            return
        content = data[place + 8 : end - 4]
        checksum = data[end - 4 : end]
        is_sound = zlib.crc32(content, zlib.crc32(name)) == int.from_bytes(checksum) if len(checksum) == 4 else None  # noqa: PLR2004 (bytes of a checksum)
        yield Chunk(name, content, data[place:end], is_sound)
        if name == b"IEND":
            return
        place = end


def has_damaged_pixels(data: bytes) -> bool:
    """Return whether the checksum of a chunk of pixels is wrong. Pillow does not look."""
    return any(chunk.name == b"IDAT" and chunk.is_sound is False for chunk in chunks(data))


def without_damage(data: bytes) -> bytes | None:
    """Return the file with only those ancillary chunks that change its pixels and are sound.

    None if nothing would be gone, or if there are more than `MAX_CHUNKS`.
    """
    found = list(itertools.islice(chunks(data), MAX_CHUNKS + 1))
    if not found or len(found) > MAX_CHUNKS or found[0].name != b"IHDR":
        return None
    color_type = found[0].content[9:10]
    kept = [chunk for chunk in found if chunk.name != b"IEND" and _is_kept(chunk, color_type)]
    mended = SIGNATURE + b"".join(chunk.whole for chunk in kept) + END
    return None if mended == data else mended


def _is_kept(chunk: Chunk, color_type: bytes) -> bool:
    if not chunk.name[0] & ANCILLARY:
        return True
    if not chunk.is_sound:
        return False
    if chunk.name == b"tRNS":
        return len(chunk.content) >= MIN_TRANSPARENCY.get(color_type[0] if color_type else 0, 0)
    return chunk.name == b"eXIf" or (chunk.name == b"iCCP" and _is_profile(chunk.content))


def _is_profile(content: bytes) -> bool:
    name, zero, rest = content.partition(b"\0")
    if not (name and zero and rest[:1] == b"\0"):
        return False
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(rest[1:], MAX_PROFILE)
    except zlib.error:
        return False
    return unpacking.eof
