"""GIF files with all kinds of first frames, each with its expected pixels. Knows no decoder."""

import itertools
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.differential.matrix import HEIGHT, WIDTH, Case

BOXES = ((0, 0, WIDTH, HEIGHT), (7, 5, 20, 16), (0, 0, 12, HEIGHT), (WIDTH - 9, HEIGHT - 11, 9, 11))


class Kind(NamedTuple):
    """One combination of the matrix. The box is left, top, width and height."""

    box: tuple[int, int, int, int]
    transparent: bool = False
    interlaced: bool = False
    local: bool = False
    gray: bool = False
    frames: int = 1
    background: int = 0
    bits: int = 4

    @property
    def name(self) -> str:
        """The kind in one line."""
        return "gif " + " ".join(f"{field}={value}" for field, value in self._asdict().items())


def kinds() -> Iterator[Kind]:
    """Yield every combination."""
    flags = (False, True)
    for values in itertools.product(BOXES, flags, flags, flags, flags, (1, 2), (0, 3), (1, 4, 8)):
        yield Kind(*values)


def make(kind: Kind) -> Case:
    """Return the file and the expected pixels of its first frame over white."""
    left, top, width, height = kind.box
    entries = 2**kind.bits
    indices = (np.indices((height, width)).sum(0) % entries).astype(np.uint8)
    ramp = np.arange(entries) * 255 // (entries - 1)
    colors = np.stack([ramp] * 3 if kind.gray else [255 - ramp, ramp, ramp * 3 % 256], -1).astype(np.uint8)
    frame = colors[indices].copy()
    if kind.transparent:
        frame[indices == 1] = 255
    canvas = colors[::-1] if kind.local else colors
    beside = 255 if kind.transparent else canvas[kind.background % entries]
    shown = np.full((HEIGHT, WIDTH, 3), beside, np.uint8)
    shown[top : top + height, left : left + width] = frame
    size = kind.bits - 1
    data = (
        b"GIF89a" + struct.pack("<HHBBB", WIDTH, HEIGHT, 0xF0 | size, kind.background % entries, 0) + canvas.tobytes()
    )
    for _ in range(kind.frames):
        data += b"!\xf9\4" + bytes([kind.transparent, 10, 0, 1, 0])
        packed = (0x80 | size if kind.local else 0) | (0x40 if kind.interlaced else 0)
        data += b"," + struct.pack("<HHHHB", left, top, width, height, packed)
        data += colors.tobytes() if kind.local else b""
        data += _compressed(_interlaced(indices) if kind.interlaced else indices, kind.bits)
    return Case(kind.name, data + b";", shown, kind._asdict())


def _interlaced(rows: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([rows[0::8], rows[4::8], rows[2::4], rows[1::2]])


def _compressed(indices: NDArray[Any], bits: int) -> bytes:
    """Encode with codes of one length: the table is cleared before the codes would grow."""
    min_bits = max(bits, 2)
    clear, width, values = 2**min_bits, min_bits + 1, indices.ravel().tolist()
    codes, room = [], 2**min_bits - 2
    for start in range(0, len(values), room):
        codes += [clear, *values[start : start + room]]
    stream = (np.array([*codes, clear + 1])[:, None] >> np.arange(width)) & 1
    data = np.packbits(stream.astype(np.uint8).ravel(), bitorder="little").tobytes()
    blocks = [data[start : start + 255] for start in range(0, len(data), 255)]
    return bytes([min_bits]) + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"
