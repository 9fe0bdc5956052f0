"""The output: rows in parts while a run goes on, then one Parquet file. Knows neither images nor engines.

    out.parquet           the rows, once all are there
    out.parquet.parts/    until then
        run.json          what the run was asked for: see `Run`
        rows-000000000000.parquet   rows from this position on
        lock              held by the process that writes

Each file is written beside its place, and moved there when it is complete. So a process that is
killed leaves complete parts. The file is made of the parts in groups of equal numbers of rows, which
follow from the rows: it does not depend on where the parts were cut.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from app.errors import sentence
from app.scoring.errors import OutputError, ScoringFailed
from app.scoring.rows import row_bytes

SUFFIX = ".parquet"
# The names in the folder of the parts: those above, and files that are being written.
OWN_NAMES = re.compile(r"lock|(run\.json|rows-\d{12,}\.parquet)(\.part)?|file\.parquet")
# The key of a run in the metadata of the file.
RUN_KEY = b"swin-serve"
COMPRESSION = "zstd"
# The most rows in a group of the file.
GROUP_ROWS = 65_536
# Bytes of rows after which a group, or a part, ends, about. A group is in memory as a whole while it is written, with
# copies.
GROUP_BYTES = 32 * 2**20


class Run(NamedTuple):
    """The options of a run, and the engine that its first start found and measured. Both determine the rows."""

    options: Mapping[str, Any]
    engine: Mapping[str, Any]

    def text(self) -> str:
        """Return the run as JSON."""
        return json.dumps(self._asdict(), indent=1)


class Output:
    """The file of a run, and the folder of its parts.

    Args:
        path: the file.

    Raises:
        OutputError: the path cannot be that of a Parquet file.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix != SUFFIX or path.is_dir():
            raise OutputError(f"cannot write {path}: give the path of a file that ends with {SUFFIX}")
        if not path.parent.is_dir():
            raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
        self.path, self.parts = path, path.with_name(f"{path.name}.parts")
        self._run_file = self.parts / "run.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing the same output inside the block.

        Raises:
            OutputError: another process writes it, or the folder of its parts cannot be written or has files of
                another program.
            ScoringFailed: a file cannot be written inside the block.
        """
        try:
            self.parts.mkdir(exist_ok=True)
            self._check_parts()
            with (self.parts / "lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                try:
                    yield
                finally:
                    if not self._run_file.exists():  # nothing has begun, or all is done
                        self._remove_parts()
        except BlockingIOError as error:
            raise OutputError(f"another process writes {self.path}; wait for it, or choose another --output") from error
        except OSError as error:
            raise OutputError(f"cannot write {self.parts}: {error.strerror or error}") from error

    def _check_parts(self) -> None:
        for file in self.parts.iterdir():
            if not OWN_NAMES.fullmatch(file.name):
                raise OutputError(f"{file} is not from swin-serve score; move it away, or choose another --output")

    def _remove_parts(self) -> None:
        for file in self.parts.iterdir():
            if OWN_NAMES.fullmatch(file.name):
                file.unlink()
        with contextlib.suppress(OSError):  # another program has written a file there
            self.parts.rmdir()

    def begun(self, options: Mapping[str, Any]) -> Run | None:
        """Return the run that the output belongs to, or None if there is no output.

        Raises:
            OutputError: it belongs to a run with other options, or to no run.
        """
        found = self._found()
        if found is not None:
            check_same(self.path, found.options, options)
        return found

    def finished_rows(self) -> int | None:
        """Return the number of rows of the file, or None while the run goes on or has not begun."""
        if self._run_file.exists() or not self.path.exists():
            return None
        return int(pq.read_metadata(self.path).num_rows)

    def begin(self, run: Run) -> None:
        """Begin a run, and discard the parts of another one. The file stays until the run is finished."""
        self._run_file.unlink(missing_ok=True)
        for part in self.parts.glob("rows-*"):
            part.unlink()
        with _replacing(self._run_file) as temporary:
            temporary.write_text(run.text(), encoding="utf-8")

    def written(self) -> tuple[int, int]:
        """Return the number of rows in the file or the parts, and of those without a result."""
        rows = missing = 0
        for part in self._complete_parts() if self._run_file.exists() else [self.path]:
            errors = pq.read_table(part, columns=["error"]).column("error")
            rows, missing = rows + len(errors), missing + len(errors) - errors.null_count
        return rows, missing

    def write(self, first: int, batches: Sequence[pa.RecordBatch]) -> None:
        """Write rows as the part that begins at position `first`.

        Raises:
            ScoringFailed: the file cannot be written.
        """
        with _replacing(self.parts / f"rows-{first:012}{SUFFIX}") as temporary:
            pq.write_table(pa.Table.from_batches(batches), temporary, compression=COMPRESSION)

    def finish(self, schema: pa.Schema) -> None:
        """Make the file of the parts, and remove them.

        Raises:
            ScoringFailed: the file cannot be written.
        """
        run = self._run_file.read_text(encoding="utf-8")
        schema, size = schema.with_metadata({RUN_KEY: run}), self._group_rows()
        with (
            _replacing(self.path, self.parts / f"file{SUFFIX}") as temporary,
            pq.ParquetWriter(temporary, schema, compression=COMPRESSION) as writer,
        ):
            for group in _groups(map(pq.read_table, self._complete_parts()), size):
                writer.write_table(group.cast(schema), row_group_size=size)
        self._run_file.unlink()  # first: without it, the parts do not count

    def _found(self) -> Run | None:
        if self._run_file.exists():
            return _parsed(self._run_file.read_text(encoding="utf-8"), self._run_file)
        if not self.path.exists():
            return None
        try:
            metadata = pq.read_metadata(self.path).metadata or {}
        except (OSError, pa.ArrowException) as error:
            raise OutputError(f"{self.path} is not a Parquet file; choose another --output, or --overwrite") from error
        if RUN_KEY not in metadata:
            raise OutputError(f"{self.path} is not from swin-serve score; choose another --output, or --overwrite")
        return _parsed(metadata[RUN_KEY].decode(), self.path)

    def _group_rows(self) -> int:
        """Return the number of rows in a group, by the first row that has a result: all others are as long."""
        for part in self._complete_parts():
            table = pq.read_table(part)
            if rows := table.filter(table["error"].is_null()).slice(0, 1).to_pylist():
                return min(max(GROUP_BYTES // row_bytes(rows[0]), 1), GROUP_ROWS)
        return GROUP_ROWS

    def _complete_parts(self) -> Iterator[Path]:
        """Yield the parts in order, up to the first gap."""
        rows = 0
        for part in sorted(self.parts.glob(f"rows-*{SUFFIX}")):
            if part.name != f"rows-{rows:012}{SUFFIX}":
                return
            yield part
            rows += pq.read_metadata(part).num_rows


@contextlib.contextmanager
def _replacing(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield a path to write to. Then make the content durable, and move it to `path`.

    Raises:
        ScoringFailed: the file cannot be written.
    """
    temporary = temporary or path.with_name(f"{path.name}.part")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ScoringFailed(f"cannot write {path}: {error.strerror or sentence(error)}") from error


def _groups(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """Yield tables of `size` rows each, and the rest. Each column is one piece, so pages do not depend on the parts."""
    rows = None
    for table in tables:
        rows = table if rows is None else pa.concat_tables([rows, table])
        while len(rows) >= size:
            yield rows.slice(0, size).combine_chunks()
            rows = rows.slice(size)
    if rows is not None and len(rows):
        yield rows.combine_chunks()


def _parsed(text: str, place: Path) -> Run:
    try:
        return Run(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise OutputError(
            f"{place} does not describe a run of this version; give --overwrite to begin again"
        ) from error


def check_same(output: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare the values of a run at its beginning with those of now.

    Raises:
        OutputError: one of them has changed.
    """
    for name in [*then, *now]:
        if then.get(name) != now.get(name):
            raise OutputError(
                f"{output} was begun with {name.replace('_', ' ')} {then.get(name)}, and it is {now.get(name)} now; "
                "go on as it was begun, choose another --output, or give --overwrite to begin again"
            )
