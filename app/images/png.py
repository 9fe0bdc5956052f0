"""Chunks of a PNG: damage, and removal of the chunks that pixels do not need. Knows bytes only.

Names, sizes and sections are those of the PNG specification, third edition (W3C, 2025).
"""

import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# The chunks that are read of one file. A PNG of 32 MiB in the usual chunks of 8 KiB has 4,096.
MAX_CHUNKS = 20_000

# Bytes of a decompressed ICC profile. Pillow has the same limit for any chunk.
MAX_PROFILE = 2**20

# The bit of the first letter of a chunk's name that is set if a decoder may ignore the chunk (5.4).
ANCILLARY = 0x20

END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))

# The minimum length of tRNS, in bytes, by color type: a gray level, or a color. For a palette, any
# length is valid.
MIN_TRANSPARENCY = {0: 2, 2: 6}


class Chunk(NamedTuple):
    """One chunk."""

    name: bytes
    content: bytes
    whole: bytes
    is_sound: bool | None  # whether the checksum is right; None if the file ends before the checksum


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks up to IEND, or up to the last chunk of the file."""
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
    """Return whether the checksum of a chunk of pixels is wrong. Pillow does not check it."""
    return any(chunk.name == b"IDAT" and chunk.is_sound is False for chunk in chunks(data))


def without_damage(data: bytes) -> bytes | None:
    """Return the file without the ancillary chunks that are damaged or do not affect its pixels.

    Return None if there is nothing to remove, or if there are more than `MAX_CHUNKS` chunks.
    """
    found = list(itertools.islice(chunks(data), MAX_CHUNKS + 1))
    if not found or len(found) > MAX_CHUNKS or found[0].name != b"IHDR":
        return None
    color_type = found[0].content[9:10]
    kept = [chunk for chunk in found if chunk.name != b"IEND" and _is_kept(chunk, color_type)]
    repaired = SIGNATURE + b"".join(chunk.whole for chunk in kept) + END
    return None if repaired == data else repaired


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
    decompressor = zlib.decompressobj()
    try:
        decompressor.decompress(rest[1:], MAX_PROFILE)
    except zlib.error:
        return False
    return decompressor.eof
