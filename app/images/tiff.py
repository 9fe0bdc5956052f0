"""Kinds of TIFF: those that are read, and the refusals of the others. Knows tags, but no pixels.

The numbers are those of TIFF 6.0 (Adobe, 1992), its supplements, and libtiff.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from app.errors import UnsupportedImage

Values = tuple[int, ...]

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIPS, SAMPLES = 256, 257, 258, 259, 262, 273, 277
ROWS_PER_STRIP, PLANES, COLOR_MAP, TILES, EXTRA_SAMPLES, SAMPLE_FORMAT = 278, 284, 320, 324, 338, 339

# The tags that define the kind of the samples.
TAGS_OF_KIND = {BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANES, EXTRA_SAMPLES, SAMPLE_FORMAT}
TAGS_NEEDED = {WIDTH: "ImageWidth", HEIGHT: "ImageLength"}

# The values that are read of a tag. Each sample has one, and no kind that is read has more than six
# samples.
MAX_VALUES = 8

# The `struct` codes of the types of unsigned integers.
INTEGERS = {1: "B", 3: "H", 4: "L", 16: "Q"}

# The layouts of a classic TIFF and of a BigTIFF: offset of the directory, number of its entries,
# and an entry.
CLASSIC, BIG = ("4xL", "H", "HHL4x"), ("8xQ", "Q", "HHQ8x")

# The version of a BigTIFF; that of a classic TIFF is 42.
BIG_VERSION = 43

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
PHOTOMETRICS = {
    WHITE_IS_ZERO: "gray (white is zero)",
    BLACK_IS_ZERO: "gray",
    RGB: "RGB",
    PALETTE: "palette",
    4: "transparency mask",
    CMYK: "CMYK",
    YCBCR: "YCbCr",
    LAB: "L*a*b*",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    32803: "color filter array (camera raw)",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw",
    51177: "depth map",
}
COLORS = {RGB: 3, CMYK: 4, YCBCR: 3, LAB: 3, 9: 3, 10: 3, 32845: 3}

COMPRESSIONS = {
    1: "no",
    2: "CCITT RLE",
    3: "CCITT group 3",
    4: "CCITT group 4",
    5: "LZW",
    6: "old-style JPEG",
    7: "JPEG",
    8: "deflate",
    9: "JBIG",
    10: "JBIG",
    32766: "NeXT RLE",
    32771: "word-aligned",
    32773: "PackBits",
    32809: "ThunderScan",
    32946: "deflate",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG (DNG)",
    34925: "LZMA",
    34933: "PNG",
    34934: "JPEG XR",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}

# Compressions of bilevel images. White is zero in a fax, and some files lack the tag for that.
FAX = {2, 3, 4}

# The kinds that every reader of TIFF reads.
COMMON_PHOTOMETRICS = {WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE}
COMMON_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}

SIGNED = 2
SAMPLE_FORMATS = {1: "", SIGNED: "signed ", 3: "floating-point ", 4: "", 5: "complex ", 6: "complex "}

SEPARATE = 2
BYTE = 8


class Kind(NamedTuple):
    """The kind of the samples, from the first directory of a TIFF."""

    bits: Values
    compression: int
    photometric: int | None
    planes: int
    extra: Values
    sample_format: Values
    missing: Values  # required tags that the directory lacks

    @property
    def is_common(self) -> bool:
        """True if every reader of TIFF reads this kind, so that a file that fails is damaged."""
        return (
            not self.missing
            and not self.extra
            and self.photometric in COMMON_PHOTOMETRICS
            and self.compression in COMMON_COMPRESSIONS
            and set(self.bits) <= ({BYTE} if self.photometric == RGB else {1, BYTE})
            and set(self.sample_format) == {1}
        )

    @property
    def name(self) -> str:
        """The kind in words."""
        if self.missing:
            return f"without the tag {TAGS_NEEDED[self.missing[0]]}"
        if self.photometric is None:
            return "without the tag PhotometricInterpretation, which defines black and white,"
        bits = "/".join(dict.fromkeys(str(bits) for bits in self.bits))
        form = SAMPLE_FORMATS.get(max(self.sample_format), "unknown ")
        color = PHOTOMETRICS.get(self.photometric, f"unknown color (photometric {self.photometric})")
        extra = f" and {len(self.extra)} extra" if self.extra else ""
        planes = " in separate planes" if self.planes == SEPARATE else ""
        compression = COMPRESSIONS.get(self.compression, f"unknown ({self.compression})")
        return f"with {bits}-bit {form}{color}{extra} samples{planes} and {compression} compression"


def refusal(kind: Kind) -> UnsupportedImage:
    """Return the error for a TIFF of a kind that is not read."""
    return UnsupportedImage(
        f"A TIFF {kind.name} is not read; save it with 8 bits, RGB or gray, interleaved samples, "
        "and LZW, deflate or no compression."
    )


def check_palette(data: bytes) -> None:
    """Refuse a palette of more than 256 colors, before it exceeds the limit on values of a tag.

    Raises:
        UnsupportedImage: the samples are indices of more than 8 bits.
    """
    kind = kind_of(data)
    if kind.photometric == PALETTE and max(kind.bits) > BYTE:
        raise refusal(kind)


def check_kind(data: bytes) -> None:
    """Refuse the kinds that Pillow opens but decodes to wrong pixels.

    Raises:
        UnsupportedImage: the byte order, the samples or their planes are of a kind that is not
            read, or the tag that defines black and white is missing.
    """
    if data.startswith(b"MM\0+"):
        raise UnsupportedImage("A BigTIFF in big-endian byte order is not read; save it in little-endian order.")
    kind = kind_of(data)
    if kind.photometric is None and kind.compression not in FAX:
        raise refusal(kind)
    # Pillow takes signed bytes for unsigned bytes. Wider signed samples are refused later, with the
    # floats.
    if SIGNED in kind.sample_format and max(kind.bits) <= BYTE:
        raise refusal(kind)
    if kind.planes == SEPARATE and not _are_planes_read(kind):
        raise refusal(kind)


def _are_planes_read(kind: Kind) -> bool:
    """Return whether libtiff and Pillow combine these planes correctly."""
    if len(kind.bits) > 1 and not set(kind.bits) <= {BYTE, 2 * BYTE}:
        return False
    if any(kind.extra):  # one of the extra samples is alpha; 0 means that a sample is of no specified kind
        return kind.photometric in {RGB, CMYK}
    return kind.photometric != LAB and not (kind.photometric == YCBCR and kind.extra)


def kind_of(data: bytes) -> Kind:
    """Return the kind of a TIFF, with the default of each tag that its directory lacks."""
    tags = dict(_tags(data))
    photometric = next(iter(tags.get(PHOTOMETRIC, ())), None)
    extra = tags.get(EXTRA_SAMPLES, ())
    colors = COLORS.get(photometric if photometric is not None else -1, 1)
    count = next(iter(tags.get(SAMPLES, ())), colors + len(extra))
    bits = tags.get(BITS, ()) or (1,)
    return Kind(
        bits=bits * min(count, MAX_VALUES) if len(bits) == 1 else bits,
        compression=next(iter(tags.get(COMPRESSION, ())), 1),
        photometric=photometric,
        planes=next(iter(tags.get(PLANES, ())), 1),
        extra=extra,
        sample_format=tags.get(SAMPLE_FORMAT, ()) or (1,),
        missing=tuple(tag for tag in TAGS_NEEDED if tag not in tags),
    )


def _tags(data: bytes) -> Iterator[tuple[int, Values]]:
    """Yield the tags of the first directory that define its kind, each with its first values."""
    order = "<" if data[:2] == b"II" else ">"
    big = BIG_VERSION in data[2:4]
    head, number, entry = (order + part for part in (BIG if big else CLASSIC))
    try:
        (place,) = struct.unpack_from(head, data)
        (entries,) = struct.unpack_from(number, data, place)
    except (struct.error, OverflowError):
        return
    place += struct.calcsize(number)
    size, inline = struct.calcsize(entry), 8 if big else 4
    for start in range(place, min(place + entries * size, len(data) - size + 1), size):
        tag, kind, count = struct.unpack_from(entry, data, start)
        if kind in INTEGERS and count and tag in TAGS_OF_KIND | TAGS_NEEDED.keys():
            layout = f"{order}{min(count, MAX_VALUES)}{INTEGERS[kind]}"
            where = start + size - inline
            if count * struct.calcsize(order + INTEGERS[kind]) > inline:
                (where,) = struct.unpack_from(order + ("Q" if big else "L"), data, where)
            if values := _unpacked(layout, data, where):
                yield tag, values


def _unpacked(layout: str, data: bytes, where: int) -> Values:
    try:
        return struct.unpack_from(layout, data, where)
    except (struct.error, OverflowError):  # outside of the file
        return ()
