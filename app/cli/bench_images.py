"""The images that the requests of `swin-serve bench` hold: files and folders, read into memory. Sends nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from app.errors import ImageTooLarge, ServiceError, StartError
from app.images.files import files_of, is_folder, read_file
from app.images.sniff import format_of

# Bytes of all images together. Each is in memory once, as a request.
MAX_BYTES = 256 * 2**20


class Image(NamedTuple):
    """An encoded image and the path of its file."""

    name: str
    content: bytes


class Images(NamedTuple):
    """The images in the order of their requests, and sentences on what was left out."""

    images: Sequence[Image]
    left_out: Sequence[str]


def read_images(names: Sequence[str], max_bytes: int = MAX_BYTES) -> Images:
    """Read files, and the images of folders by name. Hidden files are left out.

    Raises:
        StartError: there is no such file, a file or folder cannot be read, or there are no images.
    """
    reading = _Reading(max_bytes)
    for name in names:
        path = Path(name)
        if is_folder(path):
            for file in files_of(path):
                reading.add(file, is_named=False)
        else:
            reading.add(path, is_named=True)
    left_out = reading.left_out()
    if not reading.images:
        raise StartError(" ".join([f"there is no image in {', '.join(names)}; give files or folders.", *left_out]))
    return Images(reading.images, left_out)


class _Reading:
    """The images so far, and the numbers of files that were left out."""

    def __init__(self, max_bytes: int) -> None:
        self.images = list[Image]()
        self._others, self._beyond, self._room, self._max_bytes = 0, 0, max_bytes, max_bytes

    def add(self, path: Path, *, is_named: bool) -> None:
        """Read a file. A file that is named itself must be readable, and may hold anything."""
        try:
            content = read_file(path, self._room)
        except ImageTooLarge:
            self._beyond += 1
            return
        except ServiceError as error:
            if is_named:
                raise StartError(f"{path}: {error.detail}") from error
            self._others += 1
            return
        if is_named or format_of(content).islower():  # a format that swin-serve may read
            self.images.append(Image(str(path), content))
            self._room -= len(content)
        else:
            self._others += 1

    def left_out(self) -> Sequence[str]:
        """Return a sentence for each reason."""
        found = list[str]()
        if self._others:
            found.append(f"Files of the folders that cannot be read or are no images are left out: {self._others:,}.")
        if self._beyond:
            limit = f"{self._max_bytes / 2**20:g} MiB"
            found.append(f"Images are left out, because all would take more than {limit}: {self._beyond:,}.")
        return found
