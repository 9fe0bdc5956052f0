"""Sources: files, folders, globs, lists of paths and tables become items, always in the same order.

    photo.jpg           an image
    photos/             the files of the folder and of its folders, by name; hidden ones are left out
    'photos/**/*.jpg'   the files that match, by name
    list.txt            a path in each line
    table.csv           paths in a column
    table.parquet       paths in a column, or images: see `tables.py`

Paths in lists and tables are relative to their file. Knows nothing about the content of images.
"""

import glob
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from app.errors import StartError
from app.images.files import files_of, is_folder
from app.scoring.errors import SourceError
from app.scoring.items import Item, Source, text_of
from app.scoring.tables import CsvTable, ParquetTable


class Survey(NamedTuple):
    """The number of items, and a digest that changes if a list, a table or a file changes."""

    images: int
    digest: str


class Sources:
    """The sources of a run, one after the other.

    Args:
        arguments: paths and globs.
        column: the column of tables. None: the only one that can hold images.
        left_out: files and folders, such as the output, that are part of no folder and match no glob.

    Raises:
        SourceError: there is no such file, or no such column.
    """

    def __init__(self, arguments: Sequence[str], column: str | None = None, left_out: Sequence[Path] = ()) -> None:
        is_left_out = _LeftOut(left_out)
        paths = [path for argument in arguments for path in _matches(argument, is_left_out)]
        self._sources = [_source(path, column, is_left_out) for path in paths]
        self._counts = list[int]()

    def survey(self) -> Survey:
        """Count the items. Reads lists and the state of every file, but no image.

        Raises:
            SourceError: a source cannot be read, or there are no items.
        """
        digest = hashlib.sha256()
        self._counts = [source.survey(digest.update) for source in self._sources]
        if not any(self._counts):
            raise SourceError("there are no images at the source; name files, a folder, a list or a table")
        return Survey(sum(self._counts), digest.hexdigest())

    def items_after(self, count: int) -> Iterator[Item]:
        """Yield the items after the first `count`. Call `survey` first.

        Raises:
            SourceError: a source cannot be read.
        """
        for source, length in zip(self._sources, self._counts, strict=True):
            if count < length:
                yield from source.items_after(count)
            count = max(count - length, 0)


class _LeftOut:
    """Tells whether a path is one of these files and folders, or in one of the folders, also by a link."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._beginnings = tuple(os.path.join(os.path.realpath(path), "") for path in paths)  # noqa: PTH118 (a final /)

    def __call__(self, path: Path) -> bool:
        return f"{os.path.realpath(path)}{os.sep}".startswith(self._beginnings)


def _matches(argument: str, is_left_out: Callable[[Path], bool]) -> Sequence[Path]:
    """Return the path, or the paths that match the glob by name."""
    path = Path(argument)
    if os.path.exists(path):  # noqa: PTH110 (`Path.exists` raises for a name that is too long)
        return [path]
    found = sorted(map(Path, glob.glob(argument, recursive=True)))  # noqa: PTH207 (absolute patterns, too)
    if "**" in argument:  # folders match as well as their files
        found = [path for path in found if not is_folder(path)]
    found = [path for path in found if not is_left_out(path)]
    if not found:
        raise SourceError(f"there is no file or folder {argument}, and no file matches it")
    return found


def _source(path: Path, column: str | None, is_left_out: Callable[[Path], bool]) -> Source:
    if is_folder(path):
        return Folder(path, is_left_out)
    match path.suffix.lower():
        case ".txt":
            return PathList(path)
        case ".csv":
            return CsvTable(path, column)
        case ".parquet":
            return ParquetTable(path, column)
        case _:
            return ImageFile(path)


class ImageFile(Source):
    """One image."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def items(self) -> Iterator[Item]:
        yield Item(text_of(str(self._path)), self._path)


class Folder(Source):
    """The files of a folder and of the folders in it, by name. Links to folders are not followed."""

    def __init__(self, path: Path, is_left_out: Callable[[Path], bool]) -> None:
        self._path, self._is_left_out = path, is_left_out

    def items(self) -> Iterator[Item]:
        try:
            for path in files_of(self._path, self._is_left_out):
                yield Item(text_of(str(path)), path)
        except StartError as error:
            raise SourceError(str(error)) from error


class PathList(Source):
    """A text file with a path in each line. Empty lines are left out."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def items(self) -> Iterator[Item]:
        try:
            with self._path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
                for line in file:
                    if name := line.rstrip("\r\n"):
                        yield Item(text_of(name), self._path.parent / name)
        except OSError as error:
            raise SourceError(f"cannot read {self._path}: {error.strerror}") from error
