"""A reader for the BMP files that Pillow refuses or misreads. Knows nothing about limits.

Pillow refuses some bit masks, misreads gray palettes of some depths, and drops the alpha of 16
bits. The headers are Microsoft's BITMAPINFOHEADER, its predecessor and its successors.
"""

import struct
from typing import IO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from app.errors import UnreadableImage, UnsupportedImage

CORE, INFO, WITH_MASKS, WITH_ALPHA_MASK = 12, 40, 52, 56
HEADERS = {CORE, INFO, WITH_MASKS, WITH_ALPHA_MASK, 64, 108, 124}
OS2_HEADER = 64

RAW, RLE8, RLE4, MASKS, ALPHA_MASKS = 0, 1, 2, 3, 6
COMPRESSIONS = {
    4: "JPEG inside",
    5: "PNG inside",
    11: "CMYK",
    12: "CMYK, RLE",
    13: "CMYK, RLE",
}
OS2_COMPRESSIONS = {3: "OS/2 Huffman compression", 4: "OS/2 RLE24 compression"}
BYTE = 8
PALETTE_DEPTHS = {1, 2, 4, BYTE}
MASK_DEPTHS = {16, 32}

# The masks of pixels of 16 and 32 bits in a file without masks: five bits for each color, and a
# byte.
DEFAULT_MASKS = {16: (0x7C00, 0x3E0, 0x1F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}


class Header(NamedTuple):
    """The fields of a BMP's headers that decoding needs."""

    size: int
    width: int
    height: int  # negative if the first row is the top row
    bits: int
    compression: int
    colors: int
    masks: tuple[int, int, int, int]  # red, green, blue, alpha
    start: int  # offset of the pixels
    palette: int  # offset of the palette

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Parse the headers.

        Raises:
            struct.error: the file ends inside the headers.
        """
        start, size = struct.unpack_from("<II", data, 10)
        if size == CORE:
            width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
            return cls(size, width, height, bits, RAW, 0, DEFAULT_MASKS.get(bits, (0,) * 4), start, 14 + size)
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        (colors,) = struct.unpack_from("<I", data, 46)
        masks, palette = DEFAULT_MASKS.get(bits, (0,) * 4), 14 + size
        if compression in {MASKS, ALPHA_MASKS}:
            given = 4 if size >= WITH_ALPHA_MASK or compression == ALPHA_MASKS else 3
            masks = (*struct.unpack_from(f"<{given}I", data, 14 + INFO), 0)[:4]
            palette += 4 * given if size == INFO else 0
        return cls(size, width, height, bits, compression, colors, masks, start, palette)


def refusal(data: bytes) -> UnsupportedImage | None:
    """Return the error for a BMP of a kind that is not read, or None if the headers are common."""
    try:
        header = Header.of(data)
    except struct.error:
        return None
    if header.size not in HEADERS:
        return UnsupportedImage(f"A BMP with a header of {header.size} bytes is not read; save it as PNG.")
    kind = COMPRESSIONS.get(header.compression)
    if header.size == OS2_HEADER:
        kind = OS2_COMPRESSIONS.get(header.compression, kind)
    if kind:
        return UnsupportedImage(f"A BMP with {kind} is not read; save it as PNG.")
    if header.bits not in PALETTE_DEPTHS | MASK_DEPTHS | {24}:
        return UnsupportedImage(f"A BMP with {header.bits} bits per pixel is not read; save it as PNG.")
    if header.compression in {MASKS, ALPHA_MASKS}:
        masks = " ".join(f"{mask:X}" for mask in header.masks)
        return UnsupportedImage(f"A BMP of {header.bits} bits with the masks {masks} is not read; save it as PNG.")
    return None


def is_misread(image: Image.Image, data: bytes) -> bool:
    """Return whether Pillow misreads the file.

    Pillow takes the indices of some gray palettes for gray levels, and drops the alpha of 16 bits.
    """
    header = Header.of(data)
    if header.compression in {RLE4, RLE8}:
        return False
    depth = {"1": 1, "L": BYTE}.get(image.mode, header.bits)
    return header.bits != depth or (header.bits == 2 * BYTE and header.masks[3] != 0)


class PlainBmpFile(ImageFile.ImageFile):
    """An uncompressed BMP with a palette or with bit masks."""

    format = "BMP"
    format_description = "Windows bitmap"

    def _open(self) -> None:
        assert self.fp is not None  # noqa: S101 (for the type checker)
        data = self.fp.read()
        header = Header.of(data)
        is_masked = header.compression in {MASKS, ALPHA_MASKS} and header.bits in MASK_DEPTHS
        if header.size not in HEADERS or not (is_masked or header.compression == RAW) or not _are_sound(header):
            msg = "not a BMP of these kinds"
            raise SyntaxError(msg)
        if header.bits not in PALETTE_DEPTHS | MASK_DEPTHS:
            msg = "not of these depths"
            raise SyntaxError(msg)
        self._size = header.width, abs(header.height)
        self._mode = "RGBA" if header.masks[3] and header.bits in MASK_DEPTHS else "RGB"
        self.tile = [ImageFile._Tile("bmp_plain", (0, 0, *self._size), 0, (header,))]  # noqa: SLF001 (no public name)


def _are_sound(header: Header) -> bool:
    """Return whether each mask is one run of bits, and no two masks overlap."""
    if header.bits not in MASK_DEPTHS:
        return True
    masks = [mask for mask in header.masks if mask]
    runs = all((mask // (mask & -mask)) & (mask // (mask & -mask) + 1) == 0 for mask in masks)
    return runs and sum(masks) == np.bitwise_or.reduce(masks, initial=0) and sum(masks) < 2**header.bits and any(masks)


class PlainBmpDecoder(ImageFile.PyDecoder):
    """The decoder of `PlainBmpFile`: rows of indices or masked bits to RGB or RGBA."""

    _pulls_fd = True

    def decode(self, _: object) -> tuple[int, int]:
        fd: IO[bytes] | None = self.fd
        assert fd is not None  # noqa: S101 (for the type checker)
        fd.seek(0)
        data = fd.read()
        (header,) = self.args
        self.set_as_raw(_pixels(header, data).tobytes(), self.mode)
        return -1, 0


def _pixels(header: Header, data: bytes) -> NDArray[np.uint8]:
    """Return the pixels, (height, width, 3), or (height, width, 4) with alpha."""
    height, stride = abs(header.height), (header.width * header.bits + 31) // 32 * 4
    if header.start + stride * height > len(data):
        raise UnreadableImage("The BMP data is truncated or corrupt.")
    rows = np.frombuffer(data, np.uint8, stride * height, header.start).reshape(height, stride)
    rows = rows[::-1] if header.height > 0 else rows
    if header.bits in PALETTE_DEPTHS:
        return _palette(header, data)[_indices(rows, header)]
    words = np.ascontiguousarray(rows).view(f"<u{header.bits // 8}")[:, : header.width]
    used = header.masks if header.masks[3] else header.masks[:3]
    return np.stack([_levels(words, mask) for mask in used], -1)


def _indices(rows: NDArray[np.uint8], header: Header) -> NDArray[np.uint8]:
    per_byte = 8 // header.bits
    shifts = np.arange(per_byte - 1, -1, -1, dtype=np.uint8) * np.uint8(header.bits)
    spread = (rows[:, :, None] >> shifts) & np.uint8(2**header.bits - 1)
    return spread.reshape(len(rows), -1)[:, : header.width]


def _palette(header: Header, data: bytes) -> NDArray[np.uint8]:
    """Return 256 colors, (256, 3). Indices that the file gives no color are black."""
    size = 3 if header.size == CORE else 4
    count = min(header.colors or 2**header.bits, 2**header.bits, max(header.start - header.palette, 0) // size)
    entries = np.frombuffer(data, np.uint8, count * size, header.palette).reshape(count, size)
    palette = np.zeros((256, 3), np.uint8)
    palette[:count] = entries[:, 2::-1]
    return palette


def _levels(words: NDArray[np.unsignedinteger], mask: int) -> NDArray[np.uint8]:
    """Return the bits of a mask, scaled from the mask's range to 0 … 255."""
    if not mask:
        return np.zeros(words.shape, np.uint8)
    low = (mask & -mask).bit_length() - 1
    top = mask >> low
    values = (words >> np.asarray(low, words.dtype)) & np.asarray(top, words.dtype)
    if top <= 0xFF:  # noqa: PLR2004 (the values of a byte)
        table = np.arange(top + 1, dtype=np.uint32) * 255 // top
        levels: NDArray[np.uint8] = table.astype(np.uint8)[values]
        return levels
    return (values.astype(np.uint64) * 255 // top).astype(np.uint8)


def register() -> None:
    """Register the decoder with Pillow."""
    Image.register_decoder("bmp_plain", PlainBmpDecoder)
