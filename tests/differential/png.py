"""PNG files of every color type, depth and transparency, each with its expected pixels."""

import itertools
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.differential.matrix import HEIGHT, MATRIX_RGB, WIDTH, Case, over_white

GRAY, COLOR, PALETTE, GRAY_ALPHA, COLOR_ALPHA = 0, 2, 3, 4, 6
DEPTHS = {GRAY: (1, 2, 4, 8, 16), COLOR: (8, 16), PALETTE: (1, 2, 4, 8), GRAY_ALPHA: (8, 16), COLOR_ALPHA: (8, 16)}
# The passes of Adam7: first column, first row, step to the right and step down.
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class Kind(NamedTuple):
    """One combination of the matrix."""

    color_type: int
    depth: int
    transparent: bool = False
    interlaced: bool = False
    filter: int = 0

    @property
    def name(self) -> str:
        """The kind in one line."""
        return "png " + " ".join(f"{field}={value}" for field, value in self._asdict().items())


def kinds() -> Iterator[Kind]:
    """Yield every combination."""
    for color_type, depths in DEPTHS.items():
        for depth, transparent, interlaced, row_filter in itertools.product(depths, (0, 1), (0, 1), range(3)):
            if not (transparent and color_type in {GRAY_ALPHA, COLOR_ALPHA}):
                yield Kind(color_type, depth, bool(transparent), bool(interlaced), row_filter)


def chunk(name: bytes, content: bytes, checksum: int | None = None) -> bytes:
    """Return a chunk, with the right checksum unless another one is given."""
    right = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", right if checksum is None else checksum)


def make(kind: Kind) -> Case:
    """Return the file and its expected RGB pixels, alpha over white."""
    samples, shown, chunks = _samples(kind)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, kind.depth, kind.color_type, 0, 0, kind.interlaced)
    parts = [samples[row::down, column::right] for column, row, right, down in PASSES] if kind.interlaced else [samples]
    data = zlib.compress(b"".join(_rows(kind, part) for part in parts if part.size))
    whole = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return Case(kind.name, b"\x89PNG\r\n\x1a\n" + b"".join(whole), shown, kind._asdict())


def _samples(kind: Kind) -> tuple[NDArray[Any], NDArray[Any], list[bytes]]:
    top = 2**kind.depth - 1
    alpha = np.linspace(0, 1, WIDTH)[None, :, None].repeat(HEIGHT, 0)
    if kind.color_type == PALETTE:
        entries = min(top + 1, 200)
        samples = (np.indices((HEIGHT, WIDTH)).sum(0) % entries)[..., None]
        ramp = np.arange(entries) * 255 // (entries - 1)
        palette = np.stack([ramp, ramp[::-1], ramp * 7 % 256], -1).astype(np.uint8)
        shown, chunks = palette[samples[..., 0]].astype(float), [chunk(b"PLTE", palette.tobytes())]
        if kind.transparent:
            alphas = (np.arange(entries // 2 + 1) * 90 % 256).astype(np.uint8)
            chunks.append(chunk(b"tRNS", alphas.tobytes()))
            every = np.concatenate([alphas, np.full(entries - len(alphas), 255, np.uint8)])
            shown = over_white(shown, every[samples] / 255)
        return samples, np.round(shown).astype(np.uint8), chunks
    picture = MATRIX_RGB.astype(float) / 255
    if kind.color_type in {GRAY, GRAY_ALPHA}:
        picture = picture.mean(-1, keepdims=True)
    samples = np.round(picture * top).astype(np.int64)
    shown, chunks = samples / top * 255, []
    if kind.transparent:  # the color in the middle, and a band of it
        samples[10:20] = level = samples[HEIGHT // 2, WIDTH // 2]
        shown = samples / top * 255
        shown[(samples == level).all(-1)] = 255
        chunks = [chunk(b"tRNS", struct.pack(f">{len(level)}H", *level))]
    if kind.color_type in {GRAY_ALPHA, COLOR_ALPHA}:
        stored = np.round(alpha * top).astype(np.int64)
        shown = over_white(shown, stored / top)
        samples = np.concatenate([samples, stored], -1)
    shown = shown.repeat(3, -1) if shown.shape[-1] == 1 else shown
    return samples, np.round(shown).astype(np.uint8), chunks


def _rows(kind: Kind, part: NDArray[Any]) -> bytes:
    rows = len(part)
    if kind.depth == 16:
        data = np.frombuffer(part.astype(">u2").tobytes(), np.uint8).reshape(rows, -1)
    else:
        bits = (part.reshape(rows, -1, 1) >> np.arange(kind.depth - 1, -1, -1)) & 1
        data = np.packbits(bits.reshape(rows, -1).astype(np.uint8), axis=1)
    wide, step = data.astype(np.int64), max(part.shape[-1] * kind.depth // 8, 1)
    before = np.zeros_like(wide)
    if kind.filter == 1:  # the byte to the left
        before[:, step:] = wide[:, :-step]
    elif kind.filter == 2:  # the byte above
        before[1:] = wide[:-1]
    filtered = ((wide - before) % 256).astype(np.uint8)
    return np.concatenate([np.full((rows, 1), kind.filter, np.uint8), filtered], 1).tobytes()
