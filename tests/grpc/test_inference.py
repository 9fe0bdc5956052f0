"""Tests of the RPCs of inference, with the demonstration bundle and a real client."""

import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import numpy as np
import pytest
from fastapi import FastAPI
from grpc import StatusCode
from numpy.typing import NDArray
from PIL import Image

from app.bundle.load import Bundle
from app.classification.decoding import SMALL_BYTES
from app.errors import DeadlineExceeded
from app.grpc.messages import structure_bytes
from app.grpc.proto.inference_pb2 import (
    InferParameter,
    ModelConfigRequest,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelReadyRequest,
    ModelStatisticsRequest,
    RepositoryIndexRequest,
)
from app.images.preprocess import decode_pixels
from app.protocols.tensors import MAX_TENSORS
from app.settings import Settings
from tests.support.clients import caller_of
from tests.support.images import encode
from tests.support.rpc import RpcClient, image_request, parameters, route, rpc_service

pytestmark = pytest.mark.anyio

Opened = tuple[FastAPI, RpcClient]


@pytest.fixture(scope="module")
async def opened() -> AsyncIterator[Opened]:
    """Open a service with HTTP and gRPC, and a client of its gRPC port."""
    settings = Settings(device="cpu", threads=1, max_client_batch_size=8, max_body_mib=1, max_megapixels=0.1)
    async with rpc_service(settings) as opened:
        yield opened


def digit(demo: Bundle, name: str = "seven") -> bytes:
    """Return the golden sample of this name."""
    return (demo.folder / "golden" / f"{name}.png").read_bytes()


def logits_of(response: ModelInferResponse) -> NDArray[np.float32]:
    """Return the first output of a response."""
    return np.frombuffer(response.raw_output_contents[0], "<f4").reshape(response.outputs[0].shape)


async def rest(app: FastAPI, document: Mapping[str, Any], model: str = "digits") -> Any:
    """Return the document of `/v2` for a request to infer."""
    async with caller_of(app) as caller:
        return (await caller.post(f"/v2/models/{model}/infer", json=document)).json()


def rest_input(*images: bytes) -> dict[str, Any]:
    """Return encoded images as an input of `/v2`."""
    data = [base64.b64encode(image).decode() for image in images]
    entry = {"name": "image", "datatype": "BYTES", "shape": [len(images)], "data": data}
    return entry | {"parameters": {"content_type": "base64"}}


async def test_encoded_images_get_the_logits_of_rest(opened: Opened, demo: Bundle) -> None:
    """Raw and typed contents give the numbers of `/v2`, image by image, and the best class of `/classify`."""
    app, client = opened
    images = [digit(demo, "two"), digit(demo, "seven")]
    entry = {"name": "image", "datatype": "BYTES", "shape": [2, 1], "contents": {"bytes_contents": images}}
    typed = ModelInferRequest(model_name="digits.encoded", inputs=[entry])
    found = [logits_of(await client.call("ModelInfer", each)).tolist() for each in (image_request(*images), typed)]
    expected = (await rest(app, {"inputs": [rest_input(*images)]}))["outputs"][0]
    async with caller_of(app) as caller:
        best = (await caller.post("/classify?top_k=1", content=images[1])).json()["predictions"][0]

    assert found == [np.array(expected["data"], np.float32).reshape(expected["shape"]).tolist()] * 2
    assert int(np.argmax(found[0][1])) == best["index"] == 7


async def test_pixels_get_the_logits_of_their_image(opened: Opened, demo: Bundle) -> None:
    """Preprocessed pixels give the logits of the encoded image, raw as typed."""
    _, client = opened
    pixels = decode_pixels(digit(demo), demo.manifest.preprocessing)
    entry = {"name": "pixels", "datatype": "UINT8", "shape": [1, *pixels.shape]}
    requests = [
        ModelInferRequest(model_name="digits", inputs=[entry], raw_input_contents=[pixels.tobytes()]),
        ModelInferRequest(
            model_name="digits", inputs=[entry | {"contents": {"uint_contents": pixels.ravel().tolist()}}]
        ),
    ]
    expected = logits_of(await client.call("ModelInfer", image_request(digit(demo)))).tolist()

    assert [logits_of(await client.call("ModelInfer", each)).tolist() for each in requests] == [expected] * 2


async def test_inputs_are_bounded(opened: Opened) -> None:
    """A message with more inputs than the limit is refused before their contents are read."""
    entry = {"name": "image", "datatype": "BYTES", "shape": [1]}
    error = await refusal(opened[1], ModelInferRequest(model_name="digits", inputs=[entry] * (MAX_TENSORS + 1)))

    assert (error.code(), error.details()) == (
        StatusCode.INVALID_ARGUMENT,
        "the request has 17 inputs; send at most 16",
    )


@pytest.mark.parametrize("form", ["raw", "typed"])
async def test_a_large_message_is_read_like_a_small_one(opened: Opened, demo: Bundle, form: str) -> None:
    """A large message gets the same answer: raw contents are read on the event loop, typed contents in a thread."""
    _, client = opened
    image = digit(demo) + bytes(2**19)  # bytes behind the end of a PNG count for nothing
    expected = logits_of(await client.call("ModelInfer", image_request(digit(demo)))).tolist()
    typed = {"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [image]}}
    request = image_request(image) if form == "raw" else ModelInferRequest(model_name="digits", inputs=[typed])

    assert (structure_bytes(request.SerializeToString()) > SMALL_BYTES) == (form == "typed")
    assert logits_of(await client.call("ModelInfer", request)).tolist() == expected


async def test_outputs_are_those_that_are_requested(opened: Opened, demo: Bundle) -> None:
    """`classification` returns the texts of `/v2` as BYTES, `embedding` is FP32, and the ID comes back."""
    app, client = opened
    wanted = [{"name": "logits", "parameters": parameters(classification=2)}, {"name": "embedding"}]
    response = await client.call("ModelInfer", image_request(digit(demo), id="42", outputs=wanted))
    document = {
        "inputs": [rest_input(digit(demo))],
        "outputs": [{"name": "logits", "parameters": {"classification": 2}}, {"name": "embedding"}],
    }
    texts, embedding = (output["data"] for output in (await rest(app, document))["outputs"])

    assert (response.id, response.model_name, response.model_version) == ("42", "digits", "1")
    assert [(output.name, output.datatype) for output in response.outputs] == [
        ("logits", "BYTES"),
        ("embedding", "FP32"),
    ]
    assert response.raw_output_contents[0] == b"".join(
        len(text).to_bytes(4, "little") + text.encode() for text in texts
    )
    assert np.frombuffer(response.raw_output_contents[1], "<f4").tolist() == np.array(embedding, np.float32).tolist()


@pytest.mark.parametrize(
    ("late", "patient"),
    [
        (InferParameter(int64_param=1), InferParameter(int64_param=60_000_000)),
        (InferParameter(uint64_param=1), InferParameter(uint64_param=60_000_000)),
        (InferParameter(string_param="1"), InferParameter(string_param="60000000")),
        (InferParameter(int64_param=1), InferParameter(int64_param=0)),
    ],
    ids=["int64", "uint64", "string", "no limit"],
)
async def test_a_timeout_can_have_each_type_of_integer(
    opened: Opened, demo: Bundle, late: InferParameter, patient: InferParameter
) -> None:
    """Clients send integers as int64, uint64 or text.

    A microsecond has passed when the message is read; 60 s suffice, and 0 is no limit. Other parameters, such as
    `priority`, have no effect.
    """
    _, client = opened
    others = {"priority": InferParameter(uint64_param=1), "x": InferParameter(bool_param=True)}
    requests = [image_request(digit(demo), parameters={"timeout": limit} | others) for limit in (late, patient)]
    error = await refusal(client, requests[0])
    expected = logits_of(await client.call("ModelInfer", image_request(digit(demo)))).tolist()

    assert error.code() is StatusCode.DEADLINE_EXCEEDED
    assert error.details() == DeadlineExceeded().detail
    assert logits_of(await client.call("ModelInfer", requests[1])).tolist() == expected


@pytest.mark.parametrize(
    "parameter",
    [
        InferParameter(bool_param=True),
        InferParameter(int64_param=-1),
        InferParameter(string_param="²"),
        InferParameter(),
    ],
    ids=["bool", "negative", "text", "none"],
)
async def test_a_parameter_of_another_type_is_refused(opened: Opened, demo: Bundle, parameter: InferParameter) -> None:
    """A timeout or a number of classes that is no unsigned integer is an error of the client."""
    _, client = opened
    outputs = [{"name": "logits", "parameters": {"classification": parameter}}]
    for fields in ({"parameters": {"timeout": parameter}}, {"outputs": outputs}):
        error = await refusal(client, image_request(digit(demo), **fields))

        assert error.code() is StatusCode.INVALID_ARGUMENT
        assert "must be an unsigned integer" in error.details()


async def refusal(client: RpcClient, request: Any, name: str = "ModelInfer") -> Any:
    """Return the error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.call(name, request)
    return error.value


@pytest.mark.parametrize(
    ("entry", "status"),
    [
        ({"name": "x"}, StatusCode.INVALID_ARGUMENT),
        ({"shape": [2]}, StatusCode.INVALID_ARGUMENT),
        ({"shape": [-1]}, StatusCode.INVALID_ARGUMENT),
        ({"datatype": "FP16"}, StatusCode.INVALID_ARGUMENT),
        ({"shape": [9]}, StatusCode.INVALID_ARGUMENT),
    ],
    ids=["name", "count", "negative", "datatype", "batch"],
)
async def test_an_input_that_does_not_fit_has_the_sentence_of_rest(
    opened: Opened, demo: Bundle, entry: dict[str, Any], status: StatusCode
) -> None:
    """The sentence of a wrong name, datatype or size is that of `/v2`."""
    app, client = opened
    count = 9 if entry.get("shape") == [9] else 1
    images = [digit(demo)] * count
    given = {"name": "image", "datatype": "BYTES", "shape": [count]} | entry
    contents = {"contents": {"bytes_contents": images}}
    error = await refusal(client, ModelInferRequest(model_name="digits", inputs=[given | contents]))
    answer = await rest(app, {"inputs": [rest_input(*images) | entry]})

    assert (error.code(), error.details()) == (status, answer["error"])


@pytest.mark.parametrize("image", [b"text", b"\xff\xd8\xff", b""], ids=["no image", "damaged", "empty"])
async def test_an_image_that_cannot_be_read_has_the_sentence_of_rest(opened: Opened, image: bytes) -> None:
    """Bytes that are no image, or a damaged one, are an invalid argument."""
    app, client = opened
    error = await refusal(client, image_request(image))

    assert error.code() is StatusCode.INVALID_ARGUMENT
    assert error.details() == (await rest(app, {"inputs": [rest_input(image)]}))["error"]


@pytest.mark.parametrize(("model", "version"), [("cats", ""), ("digits", "2"), ("cats.encoded", "")])
@pytest.mark.parametrize("name", ["ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"])
async def test_an_unknown_model_is_not_found(opened: Opened, demo: Bundle, name: str, model: str, version: str) -> None:
    """Every RPC that names a model says so in Triton's words, for which clients search."""
    _, client = opened
    kinds: dict[str, Any] = {
        "ModelReady": ModelReadyRequest,
        "ModelMetadata": ModelMetadataRequest,
        "ModelConfig": ModelConfigRequest,
        "ModelStatistics": ModelStatisticsRequest,
    }
    infer = image_request(digit(demo), model=model, model_version=version)
    request = infer if name == "ModelInfer" else kinds[name](name=model, version=version)
    error = await refusal(client, request, name)

    assert error.code() is StatusCode.NOT_FOUND
    assert error.details().startswith(f"Request for unknown model: '{model}'")


async def test_raw_and_typed_contents_are_not_mixed(opened: Opened, demo: Bundle) -> None:
    """A request with both kinds of contents, or with another number of raw contents than inputs, is refused."""
    _, client = opened
    mixed = image_request(digit(demo))
    mixed.inputs[0].contents.bytes_contents.append(digit(demo))
    missing = image_request(digit(demo))
    missing.raw_input_contents.append(b"")
    errors = [await refusal(client, each) for each in (mixed, missing)]

    assert [error.code() for error in errors] == [StatusCode.INVALID_ARGUMENT] * 2
    assert "contents beside raw_input_contents" in errors[0].details()
    assert errors[1].details() == "the request has 1 inputs, but 2 raw_input_contents"


async def test_shared_memory_is_not_supported(opened: Opened, demo: Bundle) -> None:
    """A tensor in shared memory is refused in the words of `/v2`."""
    _, client = opened
    region = parameters(shared_memory_region="region")
    entry = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": region}
    requests = [
        ModelInferRequest(model_name="digits", inputs=[entry]),
        image_request(digit(demo), outputs=[{"name": "logits", "parameters": region}]),
    ]
    for request in requests:
        error = await refusal(client, request)

        assert error.code() is StatusCode.UNIMPLEMENTED
        assert error.details().startswith("Shared memory is not supported.")


@pytest.mark.parametrize("message", [b"\xff", b"\xff" * 20, b"\x2a\x05", b"\x0b", b"\x0d\x00", b"\x2a\x01\xff"])
async def test_a_message_that_is_none_is_refused(opened: Opened, message: bytes) -> None:
    """Bytes that are no message of the RPC are an error of the client, not of the service."""
    _, client = opened
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.channel.unary_unary(route("ModelInfer"))(message)

    assert error.value.code() is StatusCode.INVALID_ARGUMENT
    assert error.value.details() == "The message is not a valid ModelInferRequest."


async def test_a_message_of_many_fields_is_refused(opened: Opened, demo: Bundle) -> None:
    """Unknown fields of each type are skipped, but many small inputs would take much more memory than their message."""
    _, client = opened
    infer = client.channel.unary_unary(route("ModelInfer"))
    unknown = b"\xf8\x06\x96\x01" + b"\xf9\x06" + bytes(8) + b"\xfd\x06" + bytes(4) + b"\xfa\x06\x01x"
    await infer(image_request(digit(demo)).SerializeToString() + unknown)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await infer(b"\x2a\x00" * 1025)

    assert error.value.code() is StatusCode.INVALID_ARGUMENT
    assert error.value.details() == "The message has more than 1024 fields."


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_a_message_over_the_limit_is_refused(opened: Opened, compression: grpc.Compression) -> None:
    """A message is as long as `max_body_mib` at most, before and after decompression. grpc refuses longer ones."""
    app, client = opened
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.channel.unary_unary(route("ModelInfer"))(bytes(2**20 + 1), compression=compression)

    assert error.value.code() is StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.value.details()
    assert app.state.service.uploaded == 0


async def test_an_image_over_the_limit_is_refused(opened: Opened) -> None:
    """An image with more pixels than `max_megapixels` exhausts a resource, in the words of `/v2`."""
    app, client = opened
    image = encode(Image.new("RGB", (400, 400)))
    error = await refusal(client, image_request(image))

    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == (await rest(app, {"inputs": [rest_input(image)]}))["error"]


async def test_metadata_is_that_of_rest(opened: Opened) -> None:
    """Server, model, configuration and index have the fields of `/v2`."""
    app, client = opened
    server = await client.call("ServerMetadata")
    model = await client.call("ModelMetadata", ModelMetadataRequest(name="digits.encoded", version="1"))
    config = (await client.call("ModelConfig", ModelConfigRequest(name="digits"))).config
    index = await client.call("RepositoryIndex", RepositoryIndexRequest(ready=True))
    async with caller_of(app) as caller:
        expected = [(await caller.get(path)).json() for path in ("/v2", "/v2/models/digits.encoded")]

    assert (server.name, list(server.extensions)) == (expected[0]["name"], expected[0]["extensions"])
    assert [list(entry.shape) for entry in model.inputs] == [entry["shape"] for entry in expected[1]["inputs"]]
    assert (config.max_batch_size, list(config.input[0].dims), config.backend) == (8, [32, 32, 3], "onnxruntime")
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert [(entry.name, entry.state) for entry in index.models] == [("digits", "READY"), ("digits.encoded", "READY")]


async def test_statistics_count_images_of_both_protocols(opened: Opened, demo: Bundle) -> None:
    """Each image of a call counts, with and without the name of the model."""
    _, client = opened
    before = (await client.call("ModelStatistics")).model_stats[0].inference_count
    await client.call("ModelInfer", image_request(digit(demo), digit(demo)))
    found = await client.call("ModelStatistics", ModelStatisticsRequest(name="digits"))

    assert [(stats.name, stats.inference_count) for stats in found.model_stats] == [("digits", before + 2)]


async def test_a_live_service_is_live_and_ready(opened: Opened) -> None:
    """Liveness and readiness of server and model are those of the service, at each moment."""
    app, client = opened

    async def states() -> list[bool]:
        model = await client.call("ModelReady", ModelReadyRequest(name="digits"))
        return [(await client.call("ServerLive")).live, (await client.call("ServerReady")).ready, model.ready]

    assert await states() == [True, True, True]
    app.state.service.is_draining = True
    try:
        assert await states() == [True, False, False]
    finally:
        app.state.service.is_draining = False
