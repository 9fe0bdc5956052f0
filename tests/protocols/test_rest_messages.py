"""Tests of `app/protocols/rest_messages.py`: bodies of the Open Inference Protocol."""

import json
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from app.errors import InvalidBody, NotSupported
from app.http.routes.kserve import PredictRequest
from app.protocols import json_body
from app.protocols.messages import InferResponse, OutputTensor
from app.protocols.rest_messages import InferMessage, decode_request, encode_response
from app.protocols.tensors import MAX_TENSORS, Tensor


def body_of(*inputs: dict[str, Any], binary: bytes = b"", **members: Any) -> tuple[bytes, str]:
    """Return a body with binary tensors, and the value of its header field."""
    document = json.dumps({"inputs": inputs} | members).encode()
    return document + binary, str(len(document))


def binary_input(name: str, size: int) -> dict[str, Any]:
    """Return a binary input of `size` UINT8 values."""
    return {"name": name, "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}


def test_binary_and_json_inputs_can_be_mixed() -> None:
    """Each binary input takes its own bytes, in order, whatever lies between."""
    between = {"name": "b", "datatype": "UINT8", "shape": [2], "data": [7, 8]}
    body, length = body_of(binary_input("a", 2), between, binary_input("c", 3), binary=bytes(range(5)))

    assert [[tensor.name, *np.asarray(tensor.data).tolist()] for tensor in decode_request(body, length).inputs] == [
        ["a", 0, 1],
        ["b", 7, 8],
        ["c", 2, 3, 4],
    ]


def test_an_input_can_be_empty() -> None:
    """A `binary_data_size` of 0 is zero elements."""
    body, length = body_of(binary_input("a", 0))

    assert decode_request(body, length).inputs[0].shape == (0,)


def test_parameters_are_read() -> None:
    """The timeout is in microseconds; outputs have a default and their own settings."""
    outputs = [{"name": "logits", "parameters": {"classification": 3, "binary_data": False}}, {"name": "embedding"}]
    parameters = {"timeout": 2_500_000, "priority": 1, "binary_data_output": True, "unknown": [1]}
    body, length = body_of(binary_input("a", 0), id="7", outputs=outputs, parameters=parameters)
    request = decode_request(body, length)

    assert (request.id, request.timeout, request.is_binary) == ("7", 2.5, True)
    assert [(each.name, each.classes, each.is_binary) for each in request.outputs] == [
        ("logits", 3, False),
        ("embedding", 0, None),
    ]


def test_a_timeout_of_zero_is_none() -> None:
    """A timeout of 0 sets no limit, as in Triton."""
    body, length = body_of(binary_input("a", 0), parameters={"timeout": 0})

    assert decode_request(body, length).timeout is None


@pytest.mark.parametrize("length", ["-1", "12abc", "0x1", "1.0", "999999", "9" * 40, "9" * 5000, "²", "+1"])
def test_a_wrong_header_length_is_refused(length: str) -> None:
    """A length is digits only, and at most the length of the body."""
    body, _ = body_of(binary_input("a", 0))

    with pytest.raises(InvalidBody, match="inference header size should be in range"):
        decode_request(body, length)


@pytest.mark.parametrize(
    ("entry", "binary", "message"),
    [
        (binary_input("a", 3), b"ab", "unexpected size for input 'a', expecting 1 additional bytes"),
        (binary_input("a", 1), b"ab", "unexpected additional input data"),
        ({"name": "a", "datatype": "UINT8", "shape": [1]}, b"", "must have either"),
        (binary_input("a", 1) | {"data": [1]}, b"a", "must have either"),
        ({"name": "a", "datatype": "UINT8", "shape": ["1"], "data": [1]}, b"", "valid integer"),
        ({"name": 1, "datatype": "UINT8", "shape": [1], "data": [1]}, b"", "valid string"),
        (binary_input("a", 1) | {"parameters": {"binary_data_size": -1}}, b"", "greater than or equal to 0"),
        (binary_input("a", 1) | {"parameters": {"binary_data_size": 2**80}}, b"", "binary_data_size|expecting"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(entry: dict[str, Any], binary: bytes, message: str) -> None:
    """The error says what does not fit."""
    body, length = body_of(entry, binary=binary)

    with pytest.raises(InvalidBody, match=message):
        decode_request(body, length)


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{", b"null", b'{"inputs": []}', b"\xff", b'{"inputs": {}}', b"[" * 5000]
)
def test_a_body_that_is_no_request_is_refused(document: bytes) -> None:
    """A body without a JSON object with inputs is refused, however deeply it is nested."""
    with pytest.raises(InvalidBody):
        decode_request(document, "")


def test_shared_memory_is_not_supported() -> None:
    """Shared memory is refused for inputs and for outputs."""
    shared = {"shared_memory_region": "r", "shared_memory_byte_size": 1}
    for body, length in (
        body_of({"name": "a", "datatype": "UINT8", "shape": [1], "parameters": shared}),
        body_of(binary_input("a", 0), outputs=[{"name": "logits", "parameters": shared}]),
    ):
        with pytest.raises(NotSupported):
            decode_request(body, length)


def test_lists_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit of lists, a document is refused before it is parsed."""
    monkeypatch.setattr(json_body, "MAX_CONTAINERS", 9)

    with pytest.raises(InvalidBody, match="send numbers as one flat list"):
        decode_request(b'{"inputs": [[],[],[],[],[],[],[],[],[]]}', "")


def test_members_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit of members, a document is refused before it is parsed."""
    monkeypatch.setattr(json_body, "MAX_MEMBERS", 1)

    with pytest.raises(InvalidBody, match="has 2 colons, 1 are allowed"):
        decode_request(b'{"a": 1, "b": 2}', "")


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (InferMessage, {"inputs": [1, 1]}),
        (InferMessage, {"inputs": [binary_input("a", 1)], "outputs": [1, 1]}),
        (InferMessage, {"inputs": [binary_input("a", 1) | {"shape": ["1", "1"]}]}),
        (PredictRequest, {"instances": [1, 1]}),
    ],
    ids=["inputs", "outputs", "shape", "instances"],
)
def test_the_first_wrong_element_ends_a_list(kind: type[BaseModel], document: dict[str, Any]) -> None:
    """One error is kept, not one for each element: an error takes a kilobyte."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate_json(json.dumps(document))

    assert caught.value.error_count() == 1


@pytest.mark.parametrize("count", [MAX_TENSORS, MAX_TENSORS + 1])
def test_inputs_are_bounded(count: int) -> None:
    """A request with more inputs than the limit is refused."""
    body, length = body_of(*[binary_input("a", 0)] * count)

    with pytest.raises(InvalidBody) if count > MAX_TENSORS else nullcontext():
        assert len(decode_request(body, length).inputs) == count


@pytest.mark.parametrize("name", ["timeout", "priority"])
def test_a_huge_number_is_refused(name: str) -> None:
    """A parameter of more than 64 bits is an error of the client."""
    body, length = body_of(binary_input("a", 0), parameters={name: 10**400})

    with pytest.raises(InvalidBody, match=name):
        decode_request(body, length)


def test_only_outputs_with_bytes_are_binary() -> None:
    """The header length is there if a binary output with bytes follows, and the sizes add up."""
    logits = Tensor("logits", "FP32", (1, 2), np.array([[1, 2]], np.float32))
    none = Tensor("logits", "FP32", (0, 2), np.zeros((0, 2), np.float32))

    def encoded(*outputs: OutputTensor) -> tuple[bytes, int | None]:
        return encode_response(InferResponse("m", "1", "", outputs))

    content, length = encoded(OutputTensor(logits, is_binary=True))
    assert json.loads(content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert content[length:] == np.array([1, 2], "<f4").tobytes()
    assert encoded(OutputTensor(logits, is_binary=False))[1] is None
    assert encoded(OutputTensor(none, is_binary=True))[1] is None
