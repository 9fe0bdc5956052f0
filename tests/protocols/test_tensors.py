"""Tests of `app/protocols/tensors.py`: what the codec reads is what a client wrote, or an error."""

import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.errors import InvalidBody
from app.protocols import tensors
from app.protocols.tensors import (
    MAX_DIMENSIONS,
    Tensor,
    from_binary,
    from_elements,
    from_json,
    to_binary,
    to_json,
)

# On a busy machine, inputs can take longer to make than hypothesis expects.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SHAPES = arrays.array_shapes(max_dims=4, max_side=4, min_side=0)


@patient
@given(arrays.arrays(np.uint8, SHAPES))
def test_numbers_survive_every_form(values: np.ndarray[Any, Any]) -> None:
    """Flat and nested JSON, binary and typed contents give the same array."""
    shape = list(values.shape)
    found = [
        from_json("x", "UINT8", shape, values.ravel().tolist()),
        from_json("x", "UINT8", shape, values.tolist()),
        from_binary("x", "UINT8", shape, memoryview(values.tobytes())),
        from_elements("x", "UINT8", shape, values.ravel().tolist()),
    ]

    for tensor in found:
        assert (tensor.datatype, tensor.shape) == ("UINT8", values.shape)
        np.testing.assert_array_equal(np.asarray(tensor.data), values)


@patient
@given(st.lists(st.binary(max_size=20), max_size=5))
def test_bytes_survive_the_binary_form(items: list[bytes]) -> None:
    """Byte strings of any content and length come back from their binary form and from typed contents."""
    written = to_binary(Tensor("x", "BYTES", (len(items),), items))

    assert from_binary("x", "BYTES", [len(items)], memoryview(written)).data == items
    assert from_elements("x", "BYTES", [len(items)], items).data == items


@patient
@given(arrays.arrays(np.float32, SHAPES, elements=st.floats(-1e6, 1e6, width=32)))
def test_floats_are_written_exactly(values: np.ndarray[Any, Any]) -> None:
    """The binary form is little endian, and JSON has the number that the float32 is."""
    tensor = Tensor("x", "FP32", values.shape, values)

    assert to_binary(tensor) == b"".join(struct.pack("<f", value) for value in values.ravel())
    assert [np.float32(value) for value in json.loads(to_json(tensor))] == values.ravel().tolist()


def test_json_is_written_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and texts of several parts are one array."""
    monkeypatch.setattr(tensors, "PART", 2)
    numbers, texts = np.arange(5, dtype=np.float32), [b"a", b"b,", b"c"]

    assert json.loads(to_json(Tensor("x", "FP32", (5,), numbers))) == [0, 1, 2, 3, 4]
    assert json.loads(to_json(Tensor("x", "BYTES", (3,), texts))) == ["a", "b,", "c"]
    assert to_json(Tensor("x", "FP32", (0, 2), numbers[:0])) == b"[]"


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("UINT8", [2], [1], "has 1 elements, but its shape needs 2"),
        ("UINT8", [1], [256], "values that are not UINT8"),
        ("UINT8", [1], [-1], "values that are not UINT8"),
        ("UINT8", [1], [0.5], "values that are not UINT8"),
        ("UINT8", [1], ["1"], "values that are not UINT8"),
        ("UINT8", [1], [True], "values that are not UINT8"),
        ("UINT8", [1], [2**70], "values that are not UINT8"),
        ("UINT8", [1], [None], "values that are not UINT8"),
        ("UINT8", [3], [[1, 2], [3]], "nested lists of different lengths"),
        ("UINT8", [-1], [1], "a negative size"),
        ("UINT8", [2**40, 2**40], [1], "more elements than can be counted"),
        ("UINT8", [3], [1, 2, -1], "values that are not UINT8"),
        ("UINT8", [0, 2**63], [], "more elements than can be counted"),
        ("UINT8", [1] * (MAX_DIMENSIONS + 1), [1], "give at most 32"),
        ("FP64", [1], [1], "has datatype 'FP64'; the service reads UINT8, BYTES"),
        ("BYTES", [1], [1], "its data has to be strings"),
        ("BYTES", [2], ["a"], "has 1 elements, but its shape needs 2"),
    ],
)
def test_json_that_does_not_fit_is_refused(datatype: str, shape: list[int], data: Any, message: str) -> None:
    """The error says what does not fit."""
    with pytest.raises(InvalidBody, match=message):
        from_json("x", datatype, shape, data)


def test_text_for_numbers_takes_no_memory() -> None:
    """One long text among many short ones is refused before NumPy pads all of them to its length."""
    texts = ["x" * 10_000, *["1"] * 9_999]
    tracemalloc.start()
    with pytest.raises(InvalidBody, match="values that are not UINT8"):
        from_json("x", "UINT8", [10_000], texts)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2**20


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "message"),
    [
        ("UINT8", [2], b"a", "has 1 bytes, but its shape .2. needs 2"),
        ("BYTES", [1], b"\1\0\0", "ends within element 0; its shape needs 1 elements"),
        ("BYTES", [1], b"\2\0\0\0a", "ends within element 0, which has 2 bytes"),
        ("BYTES", [1], b"\xff\xff\xff\xffa", "ends within element 0, which has 4294967295 bytes"),
        ("BYTES", [2], b"\1\0\0\0a", "ends within element 1; its shape needs 2 elements"),
        ("BYTES", [0], b"\0\0\0\0", "has 4 bytes behind its 0 elements"),
        ("BYTES", [2**20], bytes(2**22), "has 1048576 elements; BYTES can have 4096"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(datatype: str, shape: list[int], raw: bytes, message: str) -> None:
    """The error says what does not fit."""
    with pytest.raises(InvalidBody, match=message):
        from_binary("x", datatype, shape, memoryview(raw))


@pytest.mark.parametrize(
    "text", ["http://host/x.png", "/etc/passwd", "data:image/png;base64,AAAA", "AAA", "A=", "AA A", "-_-_"]
)
def test_base64_is_strict(text: str) -> None:
    """A URL, a path, another alphabet, white space or missing padding is refused."""
    with pytest.raises(InvalidBody, match="is not base64"):
        from_json("x", "BYTES", [1], [text], is_base64=True)


def test_base64_is_decoded() -> None:
    """With `is_base64`, an element is the bytes that its text encodes; without, the text in UTF-8."""
    assert from_json("x", "BYTES", [1], ["/9j/"], is_base64=True).data == [b"\xff\xd8\xff"]
    assert from_json("x", "BYTES", [1], ["é"]).data == ["é".encode()]
