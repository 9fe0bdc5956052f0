"""The kinds of images that can be classified, and their bytes. Knows no connection, and does not import Pillow."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeGuard, runtime_checkable

from swin_client.errors import UnusableImage

# Compression of the PNG of a Pillow image, 0 to 9. Pillow's default, 6, made three photos 1 to 10 % smaller, for up to
# three times the CPU time.
COMPRESS_LEVEL = 1

# Modes of Pillow that a PNG can hold without a change. Others become RGB.
PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})

SCHEMES = ("http://", "https://")


@runtime_checkable
class PillowImage(Protocol):
    """An image of Pillow, as far as the client uses it."""

    @property
    def mode(self) -> str:
        """The mode, such as `RGB`."""

    @property
    def info(self) -> dict[Any, Any]:
        """Other data of the file, such as the color profile."""

    def getexif(self) -> Any:
        """Return the EXIF data, which has the orientation."""

    def convert(self, mode: str) -> "PillowImage":
        """Return the image in another mode."""

    def save(self, fp: io.BytesIO, format: str, **params: Any) -> None:  # noqa: A002 (Pillow's name)
        """Write the image."""


# A string is a URL if it begins with http:// or https://, and otherwise the path of a file.
ImageSource = str | os.PathLike[str] | bytes | bytearray | memoryview | PillowImage


def is_url(image: ImageSource) -> TypeGuard[str]:
    """Return whether the image has to be downloaded."""
    return isinstance(image, str) and image.lower().startswith(SCHEMES)


def reader_of(image: ImageSource) -> Callable[[], bytes]:
    """Return a function that returns the bytes of an image. It may block, and raises `UnusableImage`.

    Raises:
        TypeError: the image is of none of the types in `ImageSource`.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        content = bytes(image)
        return lambda: content
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        return lambda: _file(path)
    if isinstance(image, PillowImage):
        picture = image
        return lambda: _png(picture)
    raise TypeError(f"cannot classify {type(image).__name__}; give a path, a URL, bytes or an image of Pillow")


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableImage(f"cannot read {path}: {error.strerror}") from error


def _png(image: PillowImage) -> bytes:
    """Return an image of Pillow as a PNG, with its orientation and its color profile."""
    file = io.BytesIO()
    try:
        exif = image.getexif()
        profile = image.info.get("icc_profile") if image.mode in PNG_MODES else None
        picture = image if image.mode in PNG_MODES else image.convert("RGB")
        picture.save(file, "PNG", compress_level=COMPRESS_LEVEL, exif=exif, icc_profile=profile)
    except Exception as error:  # Pillow raises many types for damaged files, which it reads only now
        raise UnusableImage(f"cannot encode the image of Pillow: {error}") from error
    return file.getvalue()
