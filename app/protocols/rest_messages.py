"""The REST form of requests and responses of the Open Inference Protocol. Knows no HTTP framework and no model.

A body is a JSON document. With the binary tensor data extension, the tensors follow it in their binary form, and the
header field Inference-Header-Content-Length has the length of the document. A length of 0 means that the whole body is
the only input.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, FailFast, Field
from pydantic_core import to_json

from app.errors import InvalidBody, NotSupported
from app.protocols import tensors
from app.protocols.json_body import parse
from app.protocols.messages import InferRequest, InferResponse, RequestedOutput
from app.protocols.tensors import Tensor
from app.validation_messages import shorten

HEADER_LENGTH = "Inference-Header-Content-Length"

# The largest number of classes that a client can ask for.
MAX_CLASSES = 1_000_000

SHARED_MEMORY = "Shared memory is not supported. Send the tensors in the body."

# The largest values of `timeout` and `priority`, as of integers of 64 bits in gRPC.
MAX_INTEGER, MAX_UNSIGNED = 2**63 - 1, 2**64 - 1

# Largest number of digits of a length in a header field.
MAX_DIGITS = 18


class _Message(BaseModel):
    """A part of a request. Unknown members are ignored, as the protocol demands of unknown parameters."""

    model_config = ConfigDict(extra="ignore", strict=True)


class TensorParameters(_Message):
    """The parameters of an input."""

    binary_data_size: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Bytes of the input behind the JSON document, in its binary form."
    )
    content_type: str | None = Field(None, description="`base64` for elements of BYTES that are base64.")
    shared_memory_region: str | None = Field(None, description="Not supported (501).")


class InputMessage(_Message):
    """An input: `pixels`, UINT8 of (n, height, width, 3), or `image`, BYTES of (n) or (n, 1)."""

    name: str = Field(examples=["image"])
    datatype: str = Field(examples=["BYTES"])
    shape: Annotated[list[int], FailFast(), Field(max_length=tensors.MAX_DIMENSIONS)] = Field(examples=[[1, 1]])
    parameters: TensorParameters = TensorParameters()
    data: Any = Field(None, description="The elements, flat or nested in lists, if they are not binary.")


class OutputParameters(_Message):
    """The parameters of a requested output."""

    binary_data: bool | None = Field(None, description="Whether the output follows the JSON document, as binary.")
    classification: Annotated[int, Field(ge=0, le=MAX_CLASSES)] = Field(
        0, description="Number of best classes to return as BYTES `logit:index:label`, instead of all values."
    )
    shared_memory_region: str | None = Field(None, description="Not supported (501).")


class OutputMessage(_Message):
    """An output that the client wants: `logits`, FP32 of (n, classes), or `embedding`, FP32 of (n, channels)."""

    name: str = Field(examples=["logits"])
    parameters: OutputParameters = OutputParameters()


class RequestParameters(_Message):
    """The parameters of a request."""

    binary_data_output: bool = Field(default=False, description="The default of `binary_data` for all outputs.")
    timeout: Annotated[int, Field(ge=0, le=MAX_INTEGER)] | None = Field(
        None, description="Time limit in microseconds. It can only shorten the setting `request_timeout`."
    )
    priority: Annotated[int, Field(ge=0, le=MAX_UNSIGNED)] | None = Field(None, description="Accepted, without effect.")


class InferMessage(_Message):
    """The JSON document of a request for inference."""

    id: str = Field("", description="Returned in the response.")
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[InputMessage], FailFast(), Field(min_length=1, max_length=tensors.MAX_TENSORS)]
    outputs: Annotated[list[OutputMessage], FailFast(), Field(max_length=tensors.MAX_TENSORS)] = []


class Encoded(NamedTuple):
    """A response body. `header_length` is the length of its JSON document if binary tensors follow it, else None."""

    content: bytes
    header_length: int | None


def decode_request(body: bytes, header_length: str) -> InferRequest:
    """Return the request in a body. `header_length` is the value of the header field, or empty.

    Raises:
        InvalidBody: the body does not follow the protocol.
        NotSupported: the request uses shared memory.
    """
    length = document_length(header_length, len(body))
    message = parse(InferMessage, memoryview(body)[:length])
    inputs = _inputs(message.inputs, memoryview(body)[length:])
    if any(output.parameters.shared_memory_region is not None for output in message.outputs):
        raise NotSupported(SHARED_MEMORY)
    outputs = [
        RequestedOutput(each.name, each.parameters.classification, each.parameters.binary_data)
        for each in message.outputs
    ]
    parameters = message.parameters
    timeout = parameters.timeout / 1e6 if parameters.timeout else None  # 0: no limit, as in Triton
    return InferRequest(inputs, outputs, message.id, timeout, parameters.binary_data_output)


def is_raw(header_length: str) -> bool:
    """Return whether the whole body is the only input: the length of the JSON document is 0."""
    return header_length.strip() == "0"


def document_length(header_length: str, size: int) -> int:
    """Return the length of the JSON document in a body of `size` bytes.

    Raises:
        InvalidBody: the header field is no such length.
    """
    text = header_length.strip()
    if not text:
        return size
    if not (text.isascii() and text.isdecimal()) or len(text) > MAX_DIGITS or int(text) > size:
        raise InvalidBody(f"inference header size should be in range (0, {size}), got: {shorten(text)}")
    return int(text)


def encode_response(response: InferResponse) -> Encoded:
    """Return a response as JSON, followed by the outputs that are binary."""
    outputs, binary = [], []
    for output in response.outputs:
        tensor = output.tensor
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if output.is_binary:
            data = tensors.to_binary(tensor)
            binary.append(data)
            outputs.append(to_json(entry | {"parameters": {"binary_data_size": len(data)}}))
        else:
            outputs.append(to_json(entry)[:-1] + b',"data":' + tensors.to_json(tensor) + b"}")
    document = {"model_name": response.model_name, "model_version": response.model_version}
    start = to_json({"id": response.id} | document if response.id else document)
    header = start[:-1] + b',"outputs":[' + b",".join(outputs) + b"]}"
    content = b"".join([header, *binary])
    return Encoded(content, len(header) if len(content) > len(header) else None)


def _inputs(messages: Sequence[InputMessage], binary: memoryview) -> list[Tensor]:
    """Return the inputs. Those that are binary take their bytes from `binary` in order."""
    inputs, position = [], 0
    for message in messages:
        size = _check_source(message)
        if size is None:
            is_base64 = message.parameters.content_type == "base64"
            tensor = tensors.from_json(message.name, message.datatype, message.shape, message.data, is_base64=is_base64)
        else:
            raw = binary[position : position + size]
            if len(raw) < size:
                raise InvalidBody(
                    f"unexpected size for input '{shorten(message.name)}', expecting {size - len(raw)} additional bytes"
                )
            position += size
            tensor = tensors.from_binary(message.name, message.datatype, message.shape, raw)
        inputs.append(tensor)
    if position != len(binary):
        raise InvalidBody(f"unexpected additional input data: {len(binary) - position} bytes belong to no input")
    return inputs


def _check_source(message: InputMessage) -> int | None:
    """Return the size of a binary input, or None if its data is JSON. Exactly one source is allowed."""
    parameters = message.parameters
    if parameters.shared_memory_region is not None:
        raise NotSupported(SHARED_MEMORY)
    if (parameters.binary_data_size is None) == (message.data is None):
        raise InvalidBody(f"input '{shorten(message.name)}' must have either 'data' or 'binary_data_size'")
    return parameters.binary_data_size
