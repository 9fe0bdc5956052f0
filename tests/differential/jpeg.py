"""JPEG files of every color space and coding that Pillow writes, each with its expected pixels."""

import io
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.differential.matrix import MATRIX_RGB, Case


class Kind(NamedTuple):
    """One combination of the matrix."""

    space: str
    sampling: int = 0
    progressive: bool = False
    restarts: bool = False

    @property
    def name(self) -> str:
        """The kind in one line."""
        return "jpeg " + " ".join(f"{field}={value}" for field, value in self._asdict().items())


def kinds() -> Iterator[Kind]:
    """Yield every combination."""
    for space, sampling, progressive, restarts in itertools.product(
        ("gray", "YCbCr", "RGB", "CMYK", "YCCK"), (0, 1, 2), (False, True), (False, True)
    ):
        if sampling == 0 or space == "YCbCr":
            yield Kind(space, sampling, progressive, restarts)


def make(kind: Kind) -> Case:
    """Return the file and its expected RGB pixels."""
    image = Image.fromarray(MATRIX_RGB)
    shown = MATRIX_RGB
    options: dict[str, Any] = {"quality": 97, "progressive": kind.progressive}
    if kind.restarts:
        options["restart_marker_rows"] = 1
    if kind.space == "gray":
        image = image.convert("L")
        shown = np.asarray(image)[..., None].repeat(3, -1)
    elif kind.space in {"CMYK", "YCCK"}:
        image = Image.merge("CMYK", [*Image.fromarray(255 - MATRIX_RGB).split(), Image.new("L", image.size, 60)])
        shown = np.round(MATRIX_RGB * (195 / 255)).astype(np.uint8)
    if kind.space in {"YCbCr", "RGB"}:
        options |= {"subsampling": kind.sampling, "keep_rgb": kind.space == "RGB"}
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    data = bytearray(file.getvalue())
    if kind.space == "YCCK":  # the bytes of the inks stay, but count as luma and chroma
        data[data.index(b"Adobe") + 11] = 2
        inks = np.asarray(image).astype(float)
        luma, blue, red = 255 - inks[..., 0], 255 - inks[..., 1] - 128, 255 - inks[..., 2] - 128
        plain = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
        shown = np.round((255 - np.stack(plain, -1).clip(0, 255)) * (195 / 255)).astype(np.uint8)
    return Case(kind.name, bytes(data), shown, kind._asdict())
