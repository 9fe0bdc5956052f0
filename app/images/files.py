"""Files of images: those of a folder by name, and the content of one, up to a size. Decodes nothing."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from app.errors import ImageTooLarge, StartError, UnreadableImage


def is_folder(path: Path) -> bool:
    """Return whether there is a folder. It is none if the name is too long, or a folder above it unreadable."""
    return os.path.isdir(path)  # noqa: PTH112 (`Path.is_dir` can raise)


def files_of(folder: Path, is_left_out: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """Yield the files of a folder by name, then those of the folders in it.

    Hidden files and folders are left out. Links to folders are not followed.

    Raises:
        StartError: a folder cannot be read.
    """

    def wanted(place: str, names: list[str]) -> list[str]:
        return sorted(name for name in names if not (name.startswith(".") or is_left_out(Path(place, name))))

    for place, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = wanted(place, folders)
        yield from (Path(place, name) for name in wanted(place, names))


def read_file(path: Path, max_bytes: int | None = None) -> bytes:
    """Return the content of a regular file. `max_bytes` is its maximum size; None for no maximum.

    Raises:
        UnreadableImage: the file cannot be read.
        ImageTooLarge: the file is longer.
    """
    try:
        content = _read(path, max_bytes)
    except OSError as error:
        raise UnreadableImage(f"The file cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # for example a path that contains NUL
        raise UnreadableImage(f"The file cannot be read: {error}.") from error
    check_size(len(content), max_bytes)
    return content


def check_size(size: int, max_bytes: int | None) -> None:
    """Raise `ImageTooLarge` if an image is longer than the maximum."""
    if max_bytes is not None and size > max_bytes:
        raise ImageTooLarge(f"The image is longer than {max_bytes / 2**20:g} MiB.")


def _read(path: Path, max_bytes: int | None) -> bytes:
    with open(path, "rb", buffering=0, opener=_open) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        check_size(status.st_size, max_bytes)
        return file.read()


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # otherwise opening a pipe waits for another process


def _refuse(error: OSError) -> NoReturn:
    raise StartError(f"cannot read the folder {error.filename}: {error.strerror}") from error
