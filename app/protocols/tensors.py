"""Tensors of the Open Inference Protocol: JSON, binary and typed contents to arrays, and back. Knows no model.

The binary form of numbers is little endian, in row-major order. An element of BYTES is its length as an unsigned
integer of 32 bits, and then its bytes (Triton's binary tensor data extension).
"""

import contextlib
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json as json_of

from app.errors import InvalidBody
from app.protocols.json_body import decode_base64
from app.validation_messages import shorten

UINT8, FP32, BYTES = "UINT8", "FP32", "BYTES"

# The datatypes that the service reads. It writes FP32 and BYTES.
READ = (UINT8, BYTES)

# Limit of the elements of a tensor, as of a signed integer of 64 bits.
MAX_ELEMENTS = 2**63 - 1
# Limit of dimensions, as of NumPy's `reshape` in all supported versions.
MAX_DIMENSIONS = 32

# Limits of the tensors of a request, and of the elements of one of BYTES. The event loop splits BYTES: the largest
# request takes 0.1 s.
MAX_TENSORS, MAX_BYTE_STRINGS = 16, 2**12

# Values that are read from JSON, or written as JSON, in one call, which holds the interpreter lock: 10,000 take 3 ms.
PART = 10_000

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
        raise InvalidBody(f"input '{shorten(name)}' has a negative size in its shape {_text(shape)}")
    if math.prod(size for size in shape if size) > MAX_ELEMENTS:  # NumPy needs this of empty shapes as well
        raise InvalidBody(f"input '{shorten(name)}' has more elements than can be counted")
    return math.prod(shape)


def from_json(name: str, datatype: str, shape: Sequence[int], data: Any, *, is_base64: bool = False) -> Tensor:
    """Return a tensor of JSON values, which are flat or nested in lists. Other threads can run between their parts.

    The text of an element of BYTES is UTF-8, or base64 if `is_base64` is set.

    Raises:
        InvalidBody: the values do not fit the datatype or the shape.
    """
    count = _checked_count(name, datatype, shape)
    values = _flat(name, data) if isinstance(data, list) else [data]
    _check_number(name, len(values), count)
    if datatype == UINT8:
        return Tensor(name, UINT8, tuple(shape), _uint8(name, values).reshape(shape))
    if set(map(type, values)) - {str}:
        raise InvalidBody(f"input '{shorten(name)}' has datatype BYTES, so its data has to be strings")
    place = f"input '{shorten(name)}'"
    return Tensor(
        name,
        BYTES,
        tuple(shape),
        [decode_base64(text, place) if is_base64 else text.encode("utf-8", "surrogatepass") for text in values],
    )


def from_binary(name: str, datatype: str, shape: Sequence[int], raw: memoryview) -> Tensor:
    """Return a tensor of its binary form. Numbers share the memory of `raw`.

    Raises:
        InvalidBody: the bytes do not fit the datatype or the shape.
    """
    count = _checked_count(name, datatype, shape)
    if datatype == BYTES:
        return Tensor(name, BYTES, tuple(shape), _split_bytes(name, raw, count))
    if len(raw) != count:
        raise InvalidBody(f"input '{shorten(name)}' has {len(raw)} bytes, but its shape {_text(shape)} needs {count}")
    return Tensor(name, UINT8, tuple(shape), np.frombuffer(raw, np.uint8).reshape(shape))


def from_elements(name: str, datatype: str, shape: Sequence[int], elements: Sequence[Any]) -> Tensor:
    """Return a tensor of the typed contents of gRPC: a flat sequence of numbers, or of byte strings.

    Raises:
        InvalidBody: the elements do not fit the datatype or the shape.
    """
    count = _checked_count(name, datatype, shape)
    _check_number(name, len(elements), count)
    if datatype == BYTES:
        return Tensor(name, BYTES, tuple(shape), list(elements))
    return Tensor(name, UINT8, tuple(shape), _uint8(name, elements).reshape(shape))


def to_json(tensor: Tensor) -> bytes:
    """Return the data as a flat JSON array. Other threads can run between its parts."""
    data = tensor.data.ravel() if isinstance(tensor.data, np.ndarray) else tensor.data
    return b"[" + b",".join(json_of(_json_values(part))[1:-1] for part in _parts(data)) + b"]"


def to_binary(tensor: Tensor) -> bytes:
    """Return the data in its binary form. Numbers are FP32."""
    if isinstance(tensor.data, np.ndarray):
        numbers: bytes = tensor.data.astype("<f4", copy=False).tobytes()
        return numbers
    return b"".join(LENGTH.pack(len(item)) + item for item in tensor.data)


def _parts(data: Any) -> Iterator[Any]:
    """Yield the slices of a sequence. It takes the interpreter lock for one of them at a time."""
    for start in range(0, len(data), PART):
        yield data[start : start + PART]


def _split_bytes(name: str, raw: memoryview, count: int) -> list[bytes]:
    """Return the `count` elements of BYTES in their binary form.

    Raises:
        InvalidBody: the bytes have another number of elements.
    """
    items, position = [], 0
    for index in range(count):
        if position + LENGTH.size > len(raw):
            raise InvalidBody(f"input '{shorten(name)}' ends within element {index}; its shape needs {count} elements")
        (length,) = LENGTH.unpack_from(raw, position)
        position += LENGTH.size
        if length > len(raw) - position:
            raise InvalidBody(f"input '{shorten(name)}' ends within element {index}, which has {length} bytes")
        items.append(bytes(raw[position : position + length]))
        position += length
    if position != len(raw):
        raise InvalidBody(f"input '{shorten(name)}' has {len(raw) - position} bytes behind its {count} elements")
    return items


def _uint8(name: str, values: Sequence[Any]) -> NDArray[np.uint8]:
    """Return numbers as an array."""
    array = np.empty(len(values), np.uint8)
    for start, part in zip(range(0, len(values), PART), _parts(values), strict=True):
        raw = _as_bytes(part)
        if raw is None:
            raise InvalidBody(f"input '{shorten(name)}' has values that are not UINT8")
        array[start : start + PART] = np.frombuffer(raw, np.uint8)
    return array


def _as_bytes(values: Sequence[Any]) -> bytes | None:
    """Return the bytes that have these values, or None if one is not an integer from 0 to 255."""
    with contextlib.suppress(ValueError, OverflowError):
        return bytes(values) if set(map(type, values)) <= {int} else None
    return None


def _json_values(data: Data) -> list[Any]:
    if isinstance(data, np.ndarray):
        numbers: list[Any] = data.tolist()
        return numbers
    return [item.decode("utf-8", "replace") for item in data]


def _checked_count(name: str, datatype: str, shape: Sequence[int]) -> int:
    """Return the number of elements of a tensor that the service reads."""
    count = count_elements(name, shape)
    if datatype not in READ:
        raise InvalidBody(
            f"input '{shorten(name)}' has datatype '{shorten(datatype)}'; the service reads {', '.join(READ)}"
        )
    if datatype == BYTES and count > MAX_BYTE_STRINGS:
        raise InvalidBody(f"input '{shorten(name)}' has {count} elements; BYTES can have {MAX_BYTE_STRINGS}")
    return count


def _check_number(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise InvalidBody(f"input '{shorten(name)}' has {found} elements, but its shape needs {expected}")


def _flat(name: str, data: list[Any]) -> list[Any]:
    """Return the innermost values of nested lists, level by level. The lists of a level have one length."""
    while list in (kinds := {kind for part in _parts(data) for kind in set(map(type, part))}):
        if len(kinds) > 1 or len({length for part in _parts(data) for length in set(map(len, part))}) > 1:
            raise InvalidBody(f"input '{shorten(name)}' has nested lists of different lengths")
        data = [value for part in _parts(data) for value in chain.from_iterable(part)]
    return data


def _text(shape: Sequence[int]) -> str:
    return shorten(str(list(shape)))
