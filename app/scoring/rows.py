"""Rows: the schema of the output, and record batches from the results of chunks. Knows no engine and no files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from app.bundle.load import Contents
from app.classification.ranking import top_k
from app.scoring.items import Item
from app.scoring.pipeline import Chunk

VECTOR = pa.list_(pa.float32())
CLASS = pa.struct([("index", pa.int32()), ("label", pa.string()), ("score", pa.float32())])

# Bytes in memory, about: of a row without its lists, of a class in `top_k` with its label, and of a number in a vector.
ROW_BYTES, CLASS_BYTES, NUMBER_BYTES = 160, 32, 4


@dataclass(frozen=True)
class Columns:
    """The columns beside those that every output has."""

    top_k: int = 5  # number of classes in the column `top_k`
    logits: bool = False
    embedding: bool = False


class Output(NamedTuple):
    """The output of the network for one image."""

    logits: NDArray[np.float32]  # (classes,)
    embedding: NDArray[np.float32] | None  # (channels,); None unless wanted


def schema(columns: Columns) -> pa.Schema:
    """Return the schema of the output.

    A row without a result has an error, and null in all other columns but `source`.
    """
    vectors = [(name, VECTOR) for name in ("logits", "embedding") if getattr(columns, name)]
    return pa.schema(
        [
            pa.field("source", pa.string(), nullable=False),
            ("label", pa.string()),
            ("index", pa.int32()),
            ("score", pa.float32()),
            ("top_k", pa.list_(CLASS)),
            *vectors,
            ("error", pa.string()),
        ]
    )


class RowWriter:
    """Makes record batches of the results of one bundle."""

    def __init__(self, contents: Contents, columns: Columns) -> None:
        self.schema = schema(columns)
        self._columns, self._activation = columns, contents.manifest.activation
        self._labels = pa.array([label.name for label in contents.labels], pa.string())
        self._k = min(columns.top_k, len(contents.labels))

    def batch(self, chunk: Chunk[Item, Output]) -> pa.RecordBatch:
        """Return the rows of a chunk."""
        results = chunk.results
        outputs = [each for each in results if not isinstance(each, str)]
        is_missing = np.array([isinstance(each, str) for each in results])
        arrays = {
            "source": pa.array([item.source for item in chunk.items], pa.string()),
            **self._classes([output.logits for output in outputs], is_missing),
            "error": pa.array([each if isinstance(each, str) else None for each in results], pa.string()),
        }
        if self._columns.logits:
            arrays["logits"] = _vectors([output.logits for output in outputs], is_missing)
        if self._columns.embedding:
            arrays["embedding"] = _vectors([output.embedding for output in outputs], is_missing)
        return pa.RecordBatch.from_arrays([arrays[name] for name in self.schema.names], schema=self.schema)

    def _classes(self, logits: Sequence[NDArray[np.float32]], is_missing: NDArray[np.bool]) -> dict[str, pa.Array]:
        """Return the columns `label`, `index`, `score` and `top_k`."""
        ranked = [each for row in logits for each in top_k(row, self._k, self._activation)]
        index = pa.array([index for index, _ in ranked], pa.int32())
        values = {
            "index": index,
            "label": self._labels.take(index),
            "score": pa.array([score for _, score in ranked], pa.float32()),
        }
        # The place of the best class of each row in the values; null for a row without a result.
        places = pa.array((np.cumsum(~is_missing) - 1) * self._k, pa.int32(), mask=is_missing)
        best = {name: array.take(places) for name, array in values.items()}
        classes = pa.StructArray.from_arrays([*values.values()], fields=list(CLASS))
        return best | {"top_k": _lists(classes, self._k, is_missing)}


def _vectors(vectors: Sequence[NDArray[np.float32] | None], is_missing: NDArray[np.bool]) -> pa.Array:
    """Return a column of the vectors of the rows that have a result."""
    if not vectors:
        return pa.nulls(len(is_missing), VECTOR)
    values = np.stack([vector for vector in vectors if vector is not None])
    return _lists(pa.array(values.reshape(-1)), values.shape[1], is_missing)


def _lists(values: pa.Array, length: int, is_missing: NDArray[np.bool]) -> pa.Array:
    """Return a column of lists of equal length; null for a row without a result."""
    offsets = np.concatenate([[0], np.cumsum(~is_missing)]) * length
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=pa.array(is_missing))


def row_bytes(row: Mapping[str, Any]) -> int:
    """Return about how many bytes a row with a result takes in memory. Depends on the lengths of its lists only."""
    numbers = sum(len(row.get(name) or ()) for name in ("logits", "embedding"))
    return ROW_BYTES + CLASS_BYTES * len(row["top_k"]) + NUMBER_BYTES * numbers


def count_missing(batch: pa.RecordBatch) -> int:
    """Return the number of rows without a result."""
    return int(len(batch) - batch.column("error").null_count)
