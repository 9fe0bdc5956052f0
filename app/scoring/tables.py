"""Tables of images: CSV files with paths, and Parquet files with paths or images. Knows no other sources.

A column of a Parquet file can hold paths (text), images (bytes), or both as data sets of Hugging
Face do (`bytes` and `path`; the path counts only without bytes).
"""

import contextlib
import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from app.errors import sentence
from app.scoring.errors import SourceError
from app.scoring.items import Item, Source, text_of

# Names of columns with paths, in lower case. If a table has one of them, `--column` is not needed.
PATH_NAMES = frozenset({"path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path"})

# Rows that are read at a time. Each can hold an image of megabytes.
ROWS = 16

# Bytes that are read at a time, so that a column of images is never in memory as a whole.
BUFFER_BYTES = 2**20


class CsvTable(Source):
    """A CSV file with a line of names. A column holds paths."""

    def __init__(self, path: Path, column: str | None) -> None:
        self._path, self._column = path, column

    def items(self) -> Iterator[Item]:
        try:
            with self._path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                rows = csv.DictReader(file, strict=True)
                names = list(rows.fieldnames or ())
                column = self._column or _choose(self._path, names, _path_columns(names))
                _check_is_there(self._path, column, names)
                for number, row in enumerate(rows):
                    yield _path_item(self._path, number, row[column])
        except (OSError, csv.Error) as error:
            raise SourceError(f"{self._path} cannot be read as CSV: {sentence(error)}") from error


class ParquetTable(Source):
    """A Parquet file. A column holds paths or images."""

    def __init__(self, path: Path, column: str | None) -> None:
        self._path = path
        with _errors(path), pq.ParquetFile(path) as file:
            schema, self._length = file.schema_arrow, int(file.metadata.num_rows)
        contents = [field.name for field in schema if _holds_images(field.type)]
        texts = [field.name for field in schema if _holds_paths(field.type)]
        self._column = column or _choose(path, schema.names, contents or _path_columns(texts))
        _check_is_there(path, self._column, schema.names)
        if self._column not in {*contents, *texts}:
            raise SourceError(
                f"the column {self._column} of {path} has the type {schema.field(self._column).type}; choose one with "
                "paths (text) or images (bytes, or bytes and path) by --column"
            )
        self._has_images = self._column in contents

    def items(self) -> Iterator[Item]:
        return self.items_after(0)

    def items_after(self, count: int) -> Iterator[Item]:
        with _errors(self._path), pq.ParquetFile(self._path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            number, groups = 0, list(range(file.num_row_groups))
            while groups and number + file.metadata.row_group(groups[0]).num_rows <= count:
                number += file.metadata.row_group(groups.pop(0)).num_rows
            for batch in file.iter_batches(ROWS, row_groups=groups, columns=[self._column]):
                for value in batch.column(0).to_pylist():
                    if number >= count:
                        yield self._item(number, value)
                    number += 1

    def survey(self, update: Callable[[bytes], None]) -> int:
        if not self._has_images:
            return super().survey(update)
        status = self._path.stat()
        update(f"{text_of(str(self._path))}\0{self._column}\0{status.st_size} {status.st_mtime_ns}\0".encode())
        return self._length

    def _item(self, number: int, value: object) -> Item:
        if isinstance(value, dict):
            content, path = value.get("bytes"), value.get("path")
            value = path if content is None else content
        if isinstance(value, bytes):
            return Item(f"{text_of(str(self._path))}#{number}", content=value)
        return _path_item(self._path, number, value)


def _path_item(table: Path, number: int, value: object) -> Item:
    """Return the item of a path in a table. Without a path, it is named after its row."""
    if not value:
        return Item(f"{text_of(str(table))}#{number}")
    return Item(text_of(str(value)), table.parent / str(value))


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in kind.names and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _holds_paths(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_paths(kind.value_type)
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _path_columns(names: Sequence[str]) -> Sequence[str]:
    return [name for name in names if name.lower() in PATH_NAMES]


def _choose(table: Path, names: Sequence[str], candidates: Sequence[str]) -> str:
    """Return the only candidate, or the only column."""
    for choice in (candidates, names):
        if len(choice) == 1:
            return choice[0]
    reason = "several can" if candidates else "none is known to"
    raise SourceError(
        f"{table} has the columns {', '.join(names) or '(none)'}, and {reason} hold paths or images; choose one by "
        "--column"
    )


def _check_is_there(table: Path, column: str, names: Sequence[str]) -> None:
    if column not in names:
        raise SourceError(f"{table} has no column {column}; it has {', '.join(names)}")


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{path} cannot be read as Parquet: {sentence(error)}") from error
