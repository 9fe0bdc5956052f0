"""TIFF files of every kind, each with its expected pixels.

This module encodes the files itself, because Pillow writes only a few kinds.
"""

import io
import itertools
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.differential.matrix import HEIGHT, MATRIX_RGB, WIDTH, Case, over_white

Samples = NDArray[Any]

COMPRESSIONS = {
    "none": 1,
    "ccitt-rle": 2,
    "group3": 3,
    "group4": 4,
    "lzw": 5,
    "jpeg": 7,
    "deflate": 8,
    "packbits": 32773,
    "old-deflate": 32946,
    "lzma": 34925,
    "zstd": 50000,
    "webp": 50001,
}
BYTE_COMPRESSIONS = ("none", "lzw", "deflate", "packbits", "old-deflate", "lzma", "zstd")
PREDICTED = ("lzw", "deflate", "zstd")
PHOTOMETRICS = {"white-is-zero": 0, "gray": 1, "rgb": 2, "palette": 3, "cmyk": 5, "ycbcr": 6, "lab": 8}
ALPHAS = {"": (), "x": (0,), "associated": (1,), "unassociated": (2,)}
DEPTHS = (1, 2, 4, 8, 12, 16, 32)
TILE = 16
LAYOUTS = ("strips", "one strip", "tiles")


class Kind(NamedTuple):
    """One combination of the matrix."""

    photometric: str = "rgb"
    depth: int = 8
    sample_format: int = 1  # 1 unsigned, 2 signed, 3 float
    alpha: str = ""
    separate: bool = False
    compression: str = "none"
    predictor: int = 1
    order: str = "<"
    layout: str = "strips"
    fill_order: int = 1
    big: bool = False
    orientation: int = 1
    map_bits: int = 16
    subsampling: int = 1

    @property
    def name(self) -> str:
        """The values that differ from the defaults, in one line."""
        plain = Kind()
        parts = [f"{field}={value}" for field, value in self._asdict().items() if value != getattr(plain, field)]
        return " ".join(["tiff", self.photometric, str(self.depth), *parts])


def kinds() -> Iterator[Kind]:
    """Yield every combination that a writer could produce."""
    return itertools.chain(_by_samples(), _by_container(), _by_format(), _by_codec())


def _by_samples() -> Iterator[Kind]:
    """Yield combinations of color, depth, alpha and planes with each lossless compression of bytes."""
    for photometric, depth, alpha, separate in itertools.product(PHOTOMETRICS, DEPTHS, ALPHAS, (False, True)):
        is_possible = depth in {8, 16} or (photometric not in {"ycbcr", "lab"} and (depth >= 8 or not alpha))
        has_planes = photometric not in {"gray", "white-is-zero", "palette"} or alpha
        if not is_possible or (separate and not has_planes) or (photometric == "palette" and depth > 16):
            continue
        common = {"photometric": photometric, "depth": depth, "alpha": alpha, "separate": separate}
        for compression, order, layout in itertools.product(BYTE_COMPRESSIONS, "<>", LAYOUTS):
            predictors = (1, 2) if compression in PREDICTED and depth in {8, 16, 32} else (1,)
            for predictor in predictors:
                yield Kind(**common, compression=compression, order=order, layout=layout, predictor=predictor)  # type: ignore[arg-type]  # (the fields have several types)


def _by_container() -> Iterator[Kind]:
    """Yield combinations of byte order, 64-bit offsets, orientation and bit order."""
    for photometric, order, layout, big in itertools.product(PHOTOMETRICS, "<>", LAYOUTS, (False, True)):
        depths = (8, 16) if photometric in {"ycbcr", "lab"} else (1, 8, 16)
        for depth, compression in itertools.product(depths, ("none", "deflate")):
            plain = Kind(photometric, depth, compression=compression, order=order, layout=layout, big=big)
            yield from (plain._replace(orientation=turn) for turn in range(1, 9))
            yield plain._replace(fill_order=2)


def _by_format() -> Iterator[Kind]:
    """Yield floats, signed samples, and color maps of 8 bits."""
    for depth, sample_format, predictor in ((16, 3, 1), (32, 3, 1), (64, 3, 1), (32, 3, 3), (8, 2, 1), (16, 2, 1)):
        for photometric, separate, order in itertools.product(("gray", "rgb"), (False, True), "<>"):
            plain = Kind(photometric, depth, sample_format, separate=separate, order=order, predictor=predictor)
            yield plain._replace(compression="none" if predictor == 1 else "deflate")
    for depth, compression, order, layout in itertools.product((1, 2, 4, 8, 16), ("none", "lzw"), "<>", LAYOUTS):
        yield Kind("palette", depth, compression=compression, order=order, layout=layout, map_bits=8)


def _by_codec() -> Iterator[Kind]:
    """Yield the compressions for images: CCITT, JPEG and WebP."""
    for compression, photometric, order, fill_order in itertools.product(
        ("ccitt-rle", "group3", "group4"), ("gray", "white-is-zero"), "<>", (1, 2)
    ):
        yield Kind(photometric, 1, compression=compression, order=order, fill_order=fill_order)
    for photometric, order, layout, separate in itertools.product(
        ("gray", "white-is-zero", "rgb", "ycbcr", "cmyk"), "<>", LAYOUTS, (False, True)
    ):
        if not (separate and photometric in {"gray", "white-is-zero"}):
            yield Kind(photometric, compression="jpeg", order=order, layout=layout, separate=separate)
    for subsampling, compression, order in itertools.product((1, 2), ("jpeg", "none", "deflate"), "<>"):
        yield Kind("ycbcr", compression=compression, order=order, subsampling=subsampling)
    for alpha, order, layout in itertools.product(("", "associated", "unassociated"), "<>", LAYOUTS):
        yield Kind("rgb", alpha=alpha, compression="webp", order=order, layout=layout)


def make(kind: Kind) -> Case:
    """Return the file and its expected RGB pixels, alpha over white."""
    samples, extra, shown = _samples(kind)
    if kind.alpha:
        samples = np.concatenate([samples, extra], axis=-1)
    pieces, tags = _pieces(kind, samples), _tags(kind, samples.shape[-1])
    return Case(kind.name, _file(kind, tags, pieces), _turned(shown, kind.orientation), kind._asdict())


def _samples(kind: Kind) -> tuple[Samples, Samples, Samples]:
    """Return the stored samples, the samples of alpha, and the expected pixels."""
    top = 2**kind.depth - 1 if kind.sample_format == 1 else 1
    picture = _photometric(kind, MATRIX_RGB.astype(float) / 255)
    alpha = np.linspace(0, 1, WIDTH)[None, :, None].repeat(HEIGHT, axis=0)
    if kind.photometric == "palette":
        entries = min(2**kind.depth, 256)
        stored = (np.indices((HEIGHT, WIDTH)).sum(0) % entries)[..., None].astype(np.int64)
        shown = _palette(entries)[stored[..., 0]].astype(float)
    else:
        if kind.alpha == "associated":
            picture *= alpha
        if kind.sample_format == 3:
            stored = picture.astype(f"f{kind.depth // 8}")
        elif kind.sample_format == 2:
            stored = np.round(picture * 255 - 128).astype(np.int64)
        elif kind.photometric == "lab":
            return *_lab(kind), _lab_shown()
        else:
            stored = np.round(picture * top).astype(np.int64)
        straight = stored / top
        if kind.alpha == "associated":
            straight = np.divide(straight, alpha, out=np.zeros_like(straight), where=alpha > 0)
        shown = _shown(kind, straight.clip(0, 1)) * 255
    extra = np.round(alpha * (2**kind.depth - 1)).astype(np.int64)
    if kind.alpha in {"associated", "unassociated"}:
        shown = over_white(shown, extra / (2**kind.depth - 1))
    return stored, extra, np.round(shown).astype(np.uint8)


def _gray(rgb: Samples) -> Samples:
    gray: Samples = rgb @ np.array([0.299, 0.587, 0.114])
    return gray


def _photometric(kind: Kind, rgb: Samples) -> Samples:
    match kind.photometric:
        case "gray":
            return _gray(rgb)[..., None]
        case "white-is-zero":
            return 1 - _gray(rgb)[..., None]
        case "cmyk":
            black = 1 - rgb.max(-1, keepdims=True)
            return np.concatenate([(1 - rgb) - black, black], -1)  # the other inks without the black
        case "ycbcr":
            luma = _gray(rgb)
            return np.stack(
                [luma, (rgb[..., 2] - luma) / 1.772 + 128 / 255, (rgb[..., 0] - luma) / 1.402 + 128 / 255], -1
            )
    return rgb.copy()


def _shown(kind: Kind, samples: Samples) -> Samples:
    match kind.photometric:
        case "gray":
            return samples.repeat(3, axis=-1)
        case "white-is-zero":
            return 1 - samples.repeat(3, axis=-1)
        case "cmyk":
            paper: Samples = (1 - samples[..., :3]) * (1 - samples[..., 3:])
            return paper
        case "ycbcr":
            luma, blue, red = samples[..., 0], samples[..., 1] - 128 / 255, samples[..., 2] - 128 / 255
            shown = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
            return np.stack(shown, -1).clip(0, 1)
    return samples


def _palette(entries: int) -> NDArray[np.uint8]:
    ramp = np.arange(entries) * 255 // max(entries - 1, 1)
    return np.stack([ramp, ramp[::-1], (ramp * 7) % 256], -1).astype(np.uint8)


def _lab(kind: Kind) -> tuple[Samples, Samples]:
    """Return a gray ramp in a few colors: L from left to right, a and b in bands."""
    top = 2**kind.depth - 1
    light = np.linspace(0, 1, WIDTH)[None, :].repeat(HEIGHT, 0)
    unit = 2 ** (kind.depth - 8)
    a, b = np.indices((HEIGHT, WIDTH))[0] % 3 * 10 - 10, np.indices((HEIGHT, WIDTH))[0] % 2 * 20 - 10
    stored = np.stack([np.round(light * top), (a * unit) % (top + 1), (b * unit) % (top + 1)], -1).astype(np.int64)
    return stored, np.full((HEIGHT, WIDTH, 1), top, np.int64)


def _lab_shown() -> Samples:
    light = np.linspace(0, 100, WIDTH)[None, :].repeat(HEIGHT, 0)
    a, b = np.indices((HEIGHT, WIDTH))[0] % 3 * 10.0 - 10, np.indices((HEIGHT, WIDTH))[0] % 2 * 20.0 - 10
    y = (light + 16) / 116
    xyz = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(xyz > 6 / 29, xyz**3, 3 * (6 / 29) ** 2 * (xyz - 4 / 29)) * np.array([0.9642, 1, 0.8249])
    d50 = np.array([[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]])
    linear = (xyz @ d50.T).clip(0, 1)
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    levels: Samples = np.round(shown * 255).astype(np.uint8)
    return levels


# The transformation of the pixels that a viewer applies for each orientation.
TURNS: Mapping[int, Callable[[Samples], Samples]] = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.swapaxes(0, 1),
    6: lambda shown: np.rot90(shown, -1),
    7: lambda shown: np.rot90(shown, 2).swapaxes(0, 1),
    8: np.rot90,
}


def _turned(shown: Samples, orientation: int) -> Samples:
    return TURNS[orientation](shown)


def _tags(kind: Kind, count: int) -> dict[int, tuple[str, Sequence[int]]]:
    tags: dict[int, tuple[str, Sequence[int]]] = {
        256: ("L", [WIDTH]),
        257: ("L", [HEIGHT]),
        258: ("H", [kind.depth] * count),
        259: ("H", [COMPRESSIONS[kind.compression]]),
        262: ("H", [PHOTOMETRICS[kind.photometric]]),
        277: ("H", [count]),
        284: ("H", [2 if kind.separate else 1]),
    }
    if kind.fill_order != 1:
        tags[266] = ("H", [kind.fill_order])
    if kind.orientation != 1:
        tags[274] = ("H", [kind.orientation])
    if kind.predictor != 1:
        tags[317] = ("H", [kind.predictor])
    if kind.alpha:
        tags[338] = ("H", ALPHAS[kind.alpha])
    if kind.sample_format != 1:
        tags[339] = ("H", [kind.sample_format] * count)
    if kind.photometric == "palette":
        entries = np.zeros((2**kind.depth, 3), np.int64)
        palette = _palette(min(2**kind.depth, 256))
        entries[: len(palette)] = palette
        tags[320] = ("H", (entries.T.ravel() * (257 if kind.map_bits == 16 else 1)).tolist())
    if kind.photometric == "ycbcr":
        tags[530] = ("H", [kind.subsampling] * 2)
    if kind.layout == "tiles":
        tags |= {322: ("L", [TILE]), 323: ("L", [TILE])}
    else:
        tags[278] = ("L", [_rows(kind)])
    return tags


def _rows(kind: Kind) -> int:
    return HEIGHT if kind.layout == "one strip" or kind.compression in {"group3", "group4"} else 8


def _pieces(kind: Kind, samples: Samples) -> list[bytes]:
    """Return the encoded strips or tiles, plane after plane if the planes are separate."""
    planes = [samples[..., [band]] for band in range(samples.shape[-1])] if kind.separate else [samples]
    pieces = []
    for plane in planes:
        if kind.layout == "tiles":
            down, across = -HEIGHT % TILE, -WIDTH % TILE
            filled = np.pad(plane, ((0, down), (0, across), (0, 0)), mode="edge")
            parts = [
                filled[top : top + TILE, left : left + TILE]
                for top in range(0, HEIGHT, TILE)
                for left in range(0, WIDTH, TILE)
            ]
        else:
            parts = [plane[top : top + _rows(kind)] for top in range(0, HEIGHT, _rows(kind))]
        pieces += [_encoded(kind, part) for part in parts]
    return pieces


def _encoded(kind: Kind, part: Samples) -> bytes:
    if kind.compression in CODECS:
        return CODECS[kind.compression](kind, part)
    is_subsampled = kind.photometric == "ycbcr" and kind.subsampling == 2
    data = _subsampled(part) if is_subsampled else _packed(kind, part)
    packings: Mapping[str, Callable[[bytes], bytes]] = {
        "none": bytes,
        "lzw": _lzw,
        "deflate": zlib.compress,
        "old-deflate": zlib.compress,
        "packbits": _packbits,
        "lzma": lzma.compress,
        "zstd": _zstd,
    }
    packed = packings[kind.compression](data)
    return _mirrored(packed) if kind.fill_order == 2 else packed


def _packed(kind: Kind, part: Samples) -> bytes:
    """Return the rows of samples, each padded to whole bytes."""
    rows, columns, count = part.shape
    if kind.sample_format == 3:
        floats = part.astype(f"{kind.order}f{kind.depth // 8}")
        return _float_predicted(floats) if kind.predictor == 3 else floats.tobytes()
    if kind.predictor == 2:
        part = np.concatenate([part[:, :1], np.diff(part, axis=1)], axis=1)
    part = part % 2**kind.depth
    if kind.depth in {8, 16, 32}:
        return part.astype(f"{kind.order}u{kind.depth // 8}").tobytes()
    bits = (part.reshape(rows, columns * count, 1) >> np.arange(kind.depth - 1, -1, -1)) & 1
    return np.packbits(bits.reshape(rows, -1).astype(np.uint8), axis=1).tobytes()


def _float_predicted(part: Samples) -> bytes:
    """Sort the bytes of a row by significance, and take their differences (Adobe's technical note 3)."""
    rows, _, count = part.shape
    size = part.dtype.itemsize
    columns = part.astype(part.dtype.newbyteorder(">")).reshape(rows, -1).view(np.uint8).reshape(rows, -1, size)
    planes = columns.swapaxes(1, 2).reshape(rows, -1).astype(np.int64)
    planes[:, count:] -= planes[:, :-count].copy()
    return (planes % 256).astype(np.uint8).tobytes()


def _subsampled(part: Samples) -> bytes:
    """Return blocks of four lumas and their two common chromas (TIFF 6.0, section 21)."""
    part = np.pad(part, ((0, part.shape[0] % 2), (0, part.shape[1] % 2), (0, 0)), mode="edge")
    blocks = part.reshape(part.shape[0] // 2, 2, part.shape[1] // 2, 2, 3).swapaxes(1, 2)
    luma = blocks[..., 0].reshape(*blocks.shape[:2], 4)
    chroma = np.round(blocks[..., 1:].mean((2, 3)))
    return np.concatenate([luma, chroma], -1).astype(np.uint8).tobytes()


def _mirrored(data: bytes) -> bytes:
    return np.packbits(np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")).tobytes()


def _lzw(data: bytes) -> bytes:
    """Encode with codes of nine bits only: the table is cleared before it needs more."""
    codes = []
    for start in range(0, len(data), 250):
        codes += [256, *data[start : start + 250]]
    bits = (np.array([*codes, 257])[:, None] >> np.arange(8, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).ravel()).tobytes()


def _packbits(data: bytes) -> bytes:
    parts = [data[start : start + 128] for start in range(0, len(data), 128)]
    return b"".join(bytes([len(part) - 1]) + part for part in parts)


def _zstd(data: bytes) -> bytes:
    """Encode as one frame of raw blocks (RFC 8878, 3.1.1)."""
    parts = [data[start : start + 2**16] for start in range(0, len(data), 2**16)] or [b""]
    blocks = [
        (len(part) << 3 | (number == len(parts) - 1)).to_bytes(3, "little") + part for number, part in enumerate(parts)
    ]
    return struct.pack("<IBI", 0xFD2FB528, 0xA0, len(data)) + b"".join(blocks)


def _jpeg(kind: Kind, part: Samples) -> bytes:
    levels = part.astype(np.uint8)
    if levels.shape[-1] == 1:
        return _saved(Image.fromarray(levels[..., 0]), "JPEG", quality=98)
    if kind.photometric == "ycbcr":
        image = Image.frombytes("YCbCr", levels.shape[1::-1], levels.tobytes())
        return _saved(image, "JPEG", quality=98, subsampling=2 if kind.subsampling == 2 else 0)
    if kind.photometric == "cmyk":
        image = Image.frombytes("CMYK", levels.shape[1::-1], (255 - levels).tobytes())
        return _saved(image, "JPEG", quality=98)
    return _saved(Image.fromarray(levels), "JPEG", quality=98, keep_rgb=True)


def _webp(_: Kind, part: Samples) -> bytes:
    return _saved(Image.fromarray(part.astype(np.uint8)), "WEBP", lossless=True, exact=True)


def _fax(kind: Kind, part: Samples) -> bytes:
    """Encode with libtiff, through Pillow."""
    white = 0 if kind.photometric == "white-is-zero" else 1
    image = Image.fromarray((part[..., 0] == 1) if white else (part[..., 0] == 0))
    name = {"ccitt-rle": "tiff_ccitt"}.get(kind.compression, kind.compression)
    tags = {262: white, 278: part.shape[0]}
    written = Image.open(io.BytesIO(data := _saved(image, "TIFF", compression=name, tiffinfo=tags)))
    (start,), (size,) = written.tag_v2[273], written.tag_v2[279]  # type: ignore[attr-defined]  # (of TIFF only)
    packed = data[start : start + size]
    return _mirrored(packed) if (kind.fill_order == 2) != (written.tag_v2.get(266, 1) == 2) else packed  # type: ignore[attr-defined]  # (of TIFF only)


def _saved(image: Image.Image, name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


CODECS: Mapping[str, Callable[[Kind, Samples], bytes]] = {
    "jpeg": _jpeg,
    "webp": _webp,
    "ccitt-rle": _fax,
    "group3": _fax,
    "group4": _fax,
}


def _file(kind: Kind, tags: dict[int, tuple[str, Sequence[int]]], pieces: list[bytes]) -> bytes:
    order, number = kind.order, "Q" if kind.big else "L"
    offsets, sizes = (324, 325) if kind.layout == "tiles" else (273, 279)
    tags = tags | {sizes: (number, [len(piece) for piece in pieces])}
    if not kind.big:
        start, entry, link, inline = 8, 12, 4, 4
    else:
        start, entry, link, inline = 16, 20, 8, 8
    directory = start + (8 if kind.big else 2) + entry * (len(tags) + 1) + link

    def packed(code: str, values: Sequence[int]) -> bytes:
        return struct.pack(f"{order}{len(values)}{code}", *values)

    room = sum(len(packed(*value)) + 1 for value in tags.values()) + len(pieces) * struct.calcsize("=" + number)
    first = directory + room + (-(directory + room)) % 16
    places = list(itertools.accumulate((len(piece) + len(piece) % 2 for piece in pieces), initial=first))[:-1]
    tags[offsets] = (number, places)
    codes = {"H": 3, "L": 4, "Q": 16}
    entries, beyond = b"", b""
    for tag, (code, values) in sorted(tags.items()):
        raw = packed(code, values)
        if len(raw) > inline:
            where = directory + len(beyond)
            beyond += raw + b"\0" * (len(raw) % 2)
            raw = struct.pack(order + number, where)
        entries += struct.pack(f"{order}HH{number}", tag, codes[code], len(values)) + raw.ljust(inline, b"\0")
    mark = {"<": b"II", ">": b"MM"}[order]
    if kind.big:
        head = mark + struct.pack(order + "HHHQQ", 43, 8, 0, 16, len(tags))
    else:
        head = mark + struct.pack(order + "HLH", 42, 8, len(tags))
    data = (head + entries + b"\0" * link + beyond).ljust(first, b"\0")
    return data + b"".join(piece + b"\0" * (len(piece) % 2) for piece in pieces)
