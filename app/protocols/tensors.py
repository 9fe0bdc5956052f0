"""Tensors of the Open Inference Protocol: JSON, binary and typed contents to arrays, and back. Knows no model.

The binary form of numbers is little endian, in row-major order. An element of BYTES is its length as an unsigned
integer of 32 bits, and then its bytes (Triton's binary tensor data extension).
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidBody
from app.protocols.json_body import decode_base64
from app.validation_messages import shorten

BYTES = "BYTES"
# The types of NumPy by datatype. The service reads UINT8 and BYTES, and writes FP32 and BYTES.
DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}

# Limit of the elements of a tensor, as of a signed integer of 64 bits.
MAX_ELEMENTS = 2**63 - 1
# Limit of dimensions, as of NumPy's `reshape` in all supported versions.
MAX_DIMENSIONS = 32

LENGTH = struct.Struct("<I")

Data = NDArray[Any] | Sequence[bytes]


@dataclass(frozen=True)
class Tensor:
    """A named tensor. The data of BYTES is a sequence of byte strings, in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Data


def count_elements(name: str, shape: Sequence[int]) -> int:
    """Return the number of elements of a shape.

    Raises:
        InvalidBody: a size is negative, or the product is too large.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidBody(f"input '{shorten(name)}' has {len(shape)} dimensions; give at most {MAX_DIMENSIONS}")
    if any(size < 0 for size in shape):
        raise InvalidBody(f"input '{shorten(name)}' has a negative size in its shape {list(shape)}")
    count = math.prod(shape)
    if count > MAX_ELEMENTS:
        raise InvalidBody(f"input '{shorten(name)}' has more elements than can be counted")
    return count


def from_json(name: str, datatype: str, shape: Sequence[int], data: Any, *, is_base64: bool = False) -> Tensor:
    """Return a tensor of JSON values, which are flat or nested in lists.

    The text of an element of BYTES is UTF-8, or base64 if `is_base64` is set.

    Raises:
        InvalidBody: the values do not fit the datatype or the shape.
    """
    count = count_elements(name, shape)
    if datatype == BYTES:
        texts = _flat(data) if isinstance(data, list) else [data]
        if not all(isinstance(text, str) for text in texts):
            raise InvalidBody(f"input '{shorten(name)}' has datatype BYTES, so its data has to be strings")
        _check_count(name, len(texts), count)
        place = f"input '{shorten(name)}'"
        return Tensor(
            name,
            BYTES,
            tuple(shape),
            [decode_base64(text, place) if is_base64 else text.encode("utf-8", "surrogatepass") for text in texts],
        )
    dtype = _dtype(name, datatype)
    try:
        values = np.asarray(data)
    except ValueError as error:  # lists of different lengths
        raise InvalidBody(f"input '{shorten(name)}' has nested lists of different lengths") from error
    _check_count(name, values.size, count)
    if count and not _fits(values, dtype):
        raise InvalidBody(f"input '{shorten(name)}' has values that are not {datatype}")
    return Tensor(name, datatype, tuple(shape), values.astype(dtype).reshape(shape))


def from_binary(name: str, datatype: str, shape: Sequence[int], raw: memoryview) -> Tensor:
    """Return a tensor of its binary form. Numbers share the memory of `raw`.

    Raises:
        InvalidBody: the bytes do not fit the datatype or the shape.
    """
    count = count_elements(name, shape)
    if datatype == BYTES:
        items = split_bytes(name, raw)
        _check_count(name, len(items), count)
        return Tensor(name, BYTES, tuple(shape), items)
    dtype = _dtype(name, datatype)
    if len(raw) != count * dtype.itemsize:
        raise InvalidBody(
            f"input '{shorten(name)}' has {len(raw)} bytes, but its shape {list(shape)} needs {count * dtype.itemsize}"
        )
    return Tensor(name, datatype, tuple(shape), np.frombuffer(raw, dtype).reshape(shape))


def from_elements(name: str, datatype: str, shape: Sequence[int], elements: Sequence[Any]) -> Tensor:
    """Return a tensor of the typed contents of gRPC: a flat sequence of numbers, or of byte strings.

    Raises:
        InvalidBody: the elements do not fit the datatype or the shape.
    """
    if datatype != BYTES:
        return from_json(name, datatype, shape, list(elements))
    _check_count(name, len(elements), count_elements(name, shape))
    return Tensor(name, BYTES, tuple(shape), list(elements))


def split_bytes(name: str, raw: memoryview) -> list[bytes]:
    """Return the elements of BYTES in their binary form.

    Raises:
        InvalidBody: the lengths of the elements do not add up to the number of bytes.
    """
    items, position = [], 0
    while position < len(raw):
        if position + LENGTH.size > len(raw):
            raise InvalidBody(f"input '{shorten(name)}' ends within the length of an element")
        (length,) = LENGTH.unpack_from(raw, position)
        position += LENGTH.size
        if length > len(raw) - position:
            raise InvalidBody(f"input '{shorten(name)}' ends within an element of {length} bytes")
        items.append(bytes(raw[position : position + length]))
        position += length
    return items


def to_json(tensor: Tensor) -> list[Any]:
    """Return the data as a flat list of JSON values."""
    if isinstance(tensor.data, np.ndarray):
        return tensor.data.ravel().tolist()
    return [item.decode("utf-8", "replace") for item in tensor.data]


def to_binary(tensor: Tensor) -> bytes:
    """Return the data in its binary form."""
    if isinstance(tensor.data, np.ndarray):
        numbers: bytes = tensor.data.astype(DTYPES[tensor.datatype], copy=False).tobytes()
        return numbers
    return b"".join(LENGTH.pack(len(item)) + item for item in tensor.data)


def _dtype(name: str, datatype: str) -> np.dtype[Any]:
    dtype = DTYPES.get(datatype)
    if dtype is None:
        known = ", ".join([*DTYPES, BYTES])
        raise InvalidBody(f"input '{shorten(name)}' has datatype '{shorten(datatype)}'; the service reads {known}")
    return dtype


def _check_count(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise InvalidBody(f"input '{shorten(name)}' has {found} elements, but its shape needs {expected}")


def _fits(values: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Return whether every value can be a `dtype` without loss of its range."""
    if dtype.kind == "u":
        return values.dtype.kind in "iu" and int(values.min()) >= 0 and int(values.max()) <= np.iinfo(dtype).max
    return values.dtype.kind in "iuf"


def _flat(data: list[Any]) -> list[Any]:
    """Return the innermost values of nested lists. The parser bounds the depth."""
    flat: list[Any] = []
    for item in data:
        flat.extend(_flat(item)) if isinstance(item, list) else flat.append(item)
    return flat
