"""The gRPC form of requests and responses of the Open Inference Protocol. Knows no call and no model.

The inputs of a request are either in `raw_input_contents`, in their binary form, or in the typed contents of each
input. The outputs of a response are always in `raw_output_contents`, as Triton returns them.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from app.errors import InvalidBody, NotSupported
from app.grpc.proto.inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse
from app.protocols import tensors
from app.protocols.messages import InferRequest, InferResponse, RequestedOutput
from app.protocols.rest_messages import MAX_CLASSES, SHARED_MEMORY
from app.protocols.tensors import BYTES, UINT8, Tensor
from app.validation_messages import shorten

M = TypeVar("M")

# The field of the typed contents by datatype. The service reads no other datatype.
CONTENTS = {UINT8: "uint_contents", BYTES: "bytes_contents"}

# The choices of a parameter that can hold an unsigned integer. tritonclient sends `timeout` as int64.
INTEGERS = {"int64_param", "uint64_param", "string_param"}

# Limit of fields in one message, without those of nested messages. An empty input takes 2 bytes of the message, and 74
# in memory. Nested fields take at most 13 times their bytes.
MAX_FIELDS = 1024

# The types of fields by their number on the wire, with the length in bytes of those that have a fixed one.
VARINT, LENGTH_DELIMITED, FIXED = 0, 2, {1: 8, 5: 4}

# The number of the field `raw_input_contents` of a ModelInferRequest.
RAW_INPUT_CONTENTS: int = ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number

# Largest number of digits of an integer in a text.
MAX_DIGITS = 20


def parse(kind: type[M], data: bytes) -> M:
    """Return a message of its bytes.

    Raises:
        InvalidBody: the bytes are no such message, or one with too many fields.
    """
    try:
        deque(_fields(data), maxlen=0)  # checks them
        message: M = kind.FromString(data)  # type: ignore[attr-defined]  # (every message class has it)
    except (DecodeError, IndexError) as error:
        raise InvalidBody(f"The message is not a valid {kind.__name__}.") from error
    return message


def decode_infer_request(data: bytes) -> tuple[str, str | None, InferRequest]:
    """Return the name and the version of the model, and the request.

    Raises:
        InvalidBody: the message does not follow the protocol.
        NotSupported: the request uses shared memory.
    """
    message = parse(ModelInferRequest, data)
    inputs = _inputs(message)
    outputs = [_requested_output(output) for output in message.outputs]
    timeout = _unsigned(message.parameters, "timeout")
    request = InferRequest(
        inputs,
        outputs,
        message.id,
        timeout / 1e6 if timeout else None,  # 0: no limit, as in Triton
        is_binary=True,
    )
    return message.model_name, message.model_version or None, request


def encode_infer_response(response: InferResponse) -> ModelInferResponse:
    """Return a response with all outputs in their binary form."""
    outputs = [output.tensor for output in response.outputs]
    return ModelInferResponse(
        model_name=response.model_name,
        model_version=response.model_version,
        id=response.id,
        outputs=[
            ModelInferResponse.InferOutputTensor(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            for tensor in outputs
        ],
        raw_output_contents=[tensors.to_binary(tensor) for tensor in outputs],
    )


def structure_bytes(data: bytes) -> int:
    """Return the number of bytes of a ModelInferRequest without its raw contents, which are only copied.

    It is 0 for a message that cannot be parsed.
    """
    try:
        return len(data) - sum(size for number, size in _fields(data) if number == RAW_INPUT_CONTENTS)
    except (InvalidBody, DecodeError, IndexError):
        return 0


def _fields(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield number and size in bytes of each field, without those of nested messages.

    Raises:
        InvalidBody: the message has more than `MAX_FIELDS` fields.
        DecodeError, IndexError: the bytes are no message.
    """
    position = count = 0
    while position < len(data):
        count += 1
        if count > MAX_FIELDS:
            raise InvalidBody(f"The message has more than {MAX_FIELDS} fields.")
        start = position
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == LENGTH_DELIMITED:
            size, position = _varint(data, position)
            position += size
        elif kind == VARINT:
            _, position = _varint(data, position)
        elif kind in FIXED:
            position += FIXED[kind]
        else:
            raise DecodeError("a field of another type")
        yield tag >> 3, position - start


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return an integer of variable length and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 (the highest bit says that another byte follows)
            return value, position
        shift += 7
        if shift >= 70:  # noqa: PLR2004 (ten bytes at most, with 7 bits in each)
            raise DecodeError("an integer of more than ten bytes")


def _inputs(message: ModelInferRequest) -> list[Tensor]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidBody(f"the request has {len(message.inputs)} inputs, but {len(raw)} raw_input_contents")
    if len(message.inputs) > tensors.MAX_TENSORS:
        raise InvalidBody(f"the request has {len(message.inputs)} inputs; send at most {tensors.MAX_TENSORS}")
    found = []
    for index, entry in enumerate(message.inputs):
        _refuse_shared_memory(entry.parameters)
        if raw and entry.HasField("contents"):
            raise InvalidBody(f"input '{shorten(entry.name)}' has contents beside raw_input_contents; send one of them")
        shape = list(entry.shape)
        if raw:
            found.append(tensors.from_binary(entry.name, entry.datatype, shape, memoryview(raw[index])))
        else:
            elements = _elements(entry.contents, entry.datatype)
            found.append(tensors.from_elements(entry.name, entry.datatype, shape, elements))
    return found


def _elements(contents: Any, datatype: str) -> Sequence[Any]:
    """Return the elements in the field of the datatype; none for a datatype that the service does not read."""
    elements: Sequence[Any] = getattr(contents, CONTENTS[datatype]) if datatype in CONTENTS else ()
    return elements


def _requested_output(output: ModelInferRequest.InferRequestedOutputTensor) -> RequestedOutput:
    _refuse_shared_memory(output.parameters)
    classes = _unsigned(output.parameters, "classification")
    if classes > MAX_CLASSES:
        raise InvalidBody(f"parameter 'classification' is {classes}; give at most {MAX_CLASSES}")
    return RequestedOutput(output.name, classes)


def _refuse_shared_memory(parameters: Mapping[str, InferParameter]) -> None:
    if "shared_memory_region" in parameters:
        raise NotSupported(SHARED_MEMORY)


def _unsigned(parameters: Mapping[str, InferParameter], name: str) -> int:
    """Return a parameter that is an unsigned integer, or 0 if the request does not have it."""
    if name not in parameters:  # reading a missing key of a map would add it
        return 0
    choice = parameters[name].WhichOneof("parameter_choice")
    text = str(getattr(parameters[name], choice)) if choice in INTEGERS else ""
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise InvalidBody(f"parameter '{name}' must be an unsigned integer{f', got {shorten(text)}' if text else ''}")
    return int(text)
