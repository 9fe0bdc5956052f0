"""Items: images as files or as content, the sources that list them, and their way to pixels. Knows no engine."""

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from app.errors import ServiceError, UnreadableImage
from app.images.files import check_size, read_file
from app.images.reading import ImageReader
from app.scoring.pipeline import Pixels


class Item(NamedTuple):
    """An image: a file, or its content. Without both, the row of a table has no image."""

    source: str  # the name of the image in the output
    path: Path | None = None
    content: bytes | None = None


class Source(ABC):
    """A list of items that can be read again and again."""

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Yield all items in order.

        Raises:
            SourceError: the list cannot be read.
        """

    def items_after(self, count: int) -> Iterator[Item]:
        """Yield the items after the first `count`. Raises as `items` does."""
        return itertools.islice(self.items(), count, None)

    def survey(self, update: Callable[[bytes], None]) -> int:
        """Return the number of items, and update a digest with the size and the time of each file.

        Raises:
            SourceError: the list cannot be read.
        """
        count = 0
        for item in self.items():
            update(f"{item.source}\0{_state(item.path)}\0".encode())
            count += 1
        return count


def _state(path: Path | None) -> str:
    """Return the size and the modification time of a file, which change when its content is replaced."""
    try:
        status = os.stat(path or "")  # noqa: PTH116 (many files)
    except (OSError, ValueError):
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def text_of(path: str) -> str:
    """Return a path as text for the output. Bytes that are not UTF-8 are replaced."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def pixels_of(item: Item, reader: ImageReader, max_bytes: int | None = None) -> Pixels | str:
    """Return the pixels of an item, (height, width, 3), or the sentence that says why there are none.

    `max_bytes` is the maximum size of an encoded image; None for no maximum.
    """
    try:
        return reader.pixels(content_of(item, max_bytes))
    except ServiceError as error:
        return error.detail


def content_of(item: Item, max_bytes: int | None = None) -> bytes:
    """Return the encoded image of an item. `max_bytes` is its maximum size; None for no maximum.

    Raises:
        UnreadableImage: there is no image, or its file cannot be read.
        ImageTooLarge: the image is longer.
    """
    if item.content is not None:
        check_size(len(item.content), max_bytes)
        return item.content
    if item.path is None:
        raise UnreadableImage("The row has no image.")
    return read_file(item.path, max_bytes)
