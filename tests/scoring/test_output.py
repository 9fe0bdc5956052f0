"""`app/scoring/output.py`: the row groups of the file are bounded in bytes, and depend on the rows only."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.scoring import output
from app.scoring.output import Output, Run
from app.scoring.rows import CLASS_BYTES, NUMBER_BYTES, ROW_BYTES, Columns, schema

ROWS = 40


def row(number: int, *, classes: int, numbers: int) -> dict[str, Any]:
    """Return a row. The first ten have no result."""
    if number < 10:
        return {"source": f"{number}.png", "error": "The file cannot be read."}
    top_k = [{"index": each, "label": "a", "score": 0.5} for each in range(classes)]
    return {"source": f"{number}.png", "top_k": top_k, "logits": [0.5] * numbers}


def group_sizes(path: Path, cuts: list[int], *, classes: int = 2, numbers: int = 10) -> list[int]:
    """Write rows in parts that begin at the cuts. Return the numbers of rows in the groups of the file."""
    columns = schema(Columns(logits=True))
    rows = [row(number, classes=classes, numbers=numbers) for number in range(ROWS)]
    written = Output(path)
    with written.locked():
        written.begin(Run({}, {}))
        for first, last in zip(cuts, [*cuts[1:], ROWS], strict=True):
            written.write(first, [pa.RecordBatch.from_pylist(rows[first:last], columns)])
        written.finish(columns)
    metadata = pq.read_metadata(path)
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """End a group after 16 rows with two classes and ten logits."""
    monkeypatch.setattr(output, "GROUP_BYTES", 16 * (ROW_BYTES + 2 * CLASS_BYTES + 10 * NUMBER_BYTES))


def test_longer_rows_make_smaller_groups(tmp_path: Path) -> None:
    """The rows in a group follow from the number of classes and of logits, and there is at least one."""
    assert group_sizes(tmp_path / "a.parquet", [0]) == [16, 16, 8]
    assert group_sizes(tmp_path / "b.parquet", [0], classes=100)[0] == 1
    assert group_sizes(tmp_path / "c.parquet", [0], numbers=10 + 66)[0] == 8
    assert group_sizes(tmp_path / "d.parquet", [0], numbers=10_000)[0] == 1


def test_groups_do_not_depend_on_the_parts(tmp_path: Path) -> None:
    """A first part without any result changes no group, and no byte of the file."""
    group_sizes(tmp_path / "one.parquet", [0])
    group_sizes(tmp_path / "many.parquet", [0, 3, 9, 21, 22])

    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "many.parquet").read_bytes()
