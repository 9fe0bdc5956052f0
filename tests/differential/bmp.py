"""BMP files of every depth, header and mask, each with its expected pixels. Knows no decoder."""

import itertools
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.differential.matrix import HEIGHT, MATRIX_RGB, WIDTH, Case, over_white

CORE, INFO = 12, 40
MASKS: dict[int, tuple[tuple[int, int, int, int], ...]] = {
    16: (
        (0xF800, 0x7E0, 0x1F, 0),
        (0x7C00, 0x3E0, 0x1F, 0),
        (0x1F, 0x7E0, 0xF800, 0),
        (0xF00, 0xF0, 0xF, 0xF000),
        (0x7C00, 0x3E0, 0x1F, 0x8000),
        (0xE0, 0x1C, 0x3, 0),
    ),
    32: (
        (0xFF0000, 0xFF00, 0xFF, 0),
        (0xFF, 0xFF00, 0xFF0000, 0),
        (0xFF000000, 0xFF0000, 0xFF00, 0),
        (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
        (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
        (0xFF000000, 0xFF0, 0xFF0000 & 0xF0000, 0),
        (0xFFE00000, 0x1FFC00, 0x3FF, 0),
        (0x3FF00000, 0xFFC00, 0x3FF, 0),
    ),
}


class Kind(NamedTuple):
    """One combination of the matrix."""

    depth: int
    header: int = INFO
    masks: tuple[int, int, int, int] = (0, 0, 0, 0)
    top_down: bool = False
    gray: bool = False
    colors: int = 0
    rle: bool = False

    @property
    def name(self) -> str:
        """The kind in one line."""
        masks = " ".join(f"{mask:x}" for mask in self.masks)
        return "bmp " + " ".join(f"{field}={value}" for field, value in (self._asdict() | {"masks": masks}).items())


def kinds() -> Iterator[Kind]:
    """Yield every combination."""
    for header, depth, gray in itertools.product((CORE, INFO, 64, 108, 124), (1, 4, 8), (False, True)):
        for colors, top_down in itertools.product((0, 2, 11), (False, True)):
            if colors <= 2**depth and not (header == CORE and (colors or top_down)):
                yield Kind(depth, header, top_down=top_down, gray=gray, colors=colors)
    for header, depth, top_down in itertools.product((CORE, INFO, 64, 108, 124), (16, 24, 32), (False, True)):
        if not (header == CORE and (top_down or depth != 24)):
            yield Kind(depth, header, top_down=top_down)
    for depth, header, top_down in itertools.product((16, 32), (INFO, 52, 56, 108, 124), (False, True)):
        for masks in MASKS[depth]:
            if not masks[3] or header >= 56:
                yield Kind(depth, header, masks, top_down)
    for depth, gray, colors in itertools.product((4, 8), (False, True), (0, 2, 11)):
        yield Kind(depth, gray=gray, colors=colors, rle=True)


def make(kind: Kind) -> Case:
    """Return the file and its expected RGB pixels, alpha over white."""
    if kind.depth <= 8:
        palette, rows, shown = _indexed(kind)
    else:
        palette, (rows, shown) = b"", _masked(kind)
    rows = rows if kind.top_down else rows[::-1]
    if kind.rle:
        data = b"".join(_rle(kind, row) for row in rows) + b"\0\1"
    else:
        packed = [row.tobytes() for row in rows]
        data = b"".join(row + b"\0" * (-len(row) % 4) for row in packed)
    height = -HEIGHT if kind.top_down else HEIGHT
    compression = 3 if any(kind.masks) else {4: 2, 8: 1}[kind.depth] if kind.rle else 0
    if kind.header == CORE:
        info = struct.pack("<IHHHH", CORE, WIDTH, HEIGHT, 1, kind.depth)
    else:
        info = struct.pack(
            "<IiiHHIIiiII", kind.header, WIDTH, height, 1, kind.depth, compression, len(data), 0, 0, kind.colors, 0
        )
        masks = struct.pack("<4I", *kind.masks)
        info += masks[:12] if kind.header == INFO and any(kind.masks) else masks[: max(kind.header - INFO, 0)]
        info = info.ljust(kind.header, b"\0")
    start = 14 + len(info) + len(palette)
    head = b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start)
    return Case(kind.name, head + info + palette + data, shown, kind._asdict())


def _indexed(kind: Kind) -> tuple[bytes, NDArray[Any], NDArray[Any]]:
    entries = kind.colors or 2**kind.depth
    indices = (np.indices((HEIGHT, WIDTH)).sum(0) // 3 % entries).astype(np.uint8)
    ramp = np.arange(entries) * 255 // max(entries - 1, 1) if entries in {2, 256} else np.arange(entries)
    colors = np.stack([ramp, ramp, ramp] if kind.gray else [ramp, 255 - ramp, ramp * 7 % 256], -1).astype(np.uint8)
    stored = colors[:, ::-1]
    if kind.header != CORE:
        stored = np.concatenate([stored, np.zeros((entries, 1), np.uint8)], 1)
    if kind.rle:
        return stored.tobytes(), indices, colors[indices]
    bits = (indices[..., None] >> np.arange(kind.depth - 1, -1, -1, dtype=np.uint8)) & 1
    return stored.tobytes(), np.packbits(bits.reshape(HEIGHT, -1), axis=1), colors[indices]


def _masked(kind: Kind) -> tuple[NDArray[Any], NDArray[Any]]:
    if kind.depth == 24:
        return MATRIX_RGB[:, :, ::-1], MATRIX_RGB
    default = {16: (0x7C00, 0x3E0, 0x1F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}[kind.depth]
    masks = kind.masks if any(kind.masks) else default
    alpha = np.linspace(0, 255, WIDTH)[None, :].repeat(HEIGHT, 0)
    words = np.zeros((HEIGHT, WIDTH), np.uint64)
    levels = []
    for mask, plane in zip(masks, (*np.moveaxis(MATRIX_RGB, -1, 0), alpha), strict=True):
        if mask:
            low = (mask & -mask).bit_length() - 1
            top = mask >> low
            values = np.round(plane / 255 * top).astype(np.uint64)
            words |= values << np.uint64(low)
            levels.append(values / top * 255)
    shown = np.stack(levels[:3], -1)
    if masks[3]:
        shown = over_white(shown, levels[3][..., None] / 255)
    return words.astype(f"<u{kind.depth // 8}"), np.round(shown).astype(np.uint8)


def _rle(kind: Kind, row: NDArray[Any]) -> bytes:
    """Encode a row as one uncompressed stretch, and runs of one pixel."""
    if kind.depth == 8:
        plain = row[:6].tobytes()
        runs = b"".join(bytes([1, index]) for index in row[6:].tolist())
        return b"\0\6" + plain + runs + b"\0\0"
    pairs = [(int(left) << 4) | int(right) for left, right in row[:4].reshape(-1, 2)]
    runs = b"".join(bytes([1, index << 4]) for index in row[4:].tolist())
    return b"\0\4" + bytes(pairs) + runs + b"\0\0"
