"""Tests of `/v2`: the Open Inference Protocol over REST, with the demonstration bundle."""

import base64
import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from starlette.testclient import TestClient

from app.bundle.load import Bundle
from app.classification.decoding import SMALL_BYTES
from app.classification.evidence import contributions
from app.images.preprocess import decode_pixels
from app.main import create_app
from app.settings import Settings

INFER = "/v2/models/digits/infer"
LENGTH = "Inference-Header-Content-Length"
PACKED = gzip.compress(b"{}", mtime=0)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of a service with the demonstration bundle."""
    with TestClient(create_app(Settings(device="cpu", threads=1, max_client_batch_size=8))) as client:
        yield client


def digit(demo: Bundle, name: str) -> bytes:
    """Return the golden sample of this name."""
    return (demo.folder / "golden" / f"{name}.png").read_bytes()


def pixels_of(demo: Bundle, name: str) -> NDArray[np.uint8]:
    """Return the preprocessed pixels of a golden sample."""
    return decode_pixels(digit(demo, name), demo.manifest.preprocessing)


def as_bytes(*images: bytes) -> bytes:
    """Return images in the binary form of BYTES."""
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


def encoded_input(*images: bytes, shape: list[int] | None = None) -> dict[str, Any]:
    """Return the input `image` with images in base64."""
    texts = [base64.b64encode(image).decode() for image in images]
    entry = {"name": "image", "datatype": "BYTES", "shape": shape or [len(images)], "data": texts}
    return entry | {"parameters": {"content_type": "base64"}}


def logits_of(answer: dict[str, Any]) -> NDArray[np.float32]:
    """Return the first output of a response."""
    output = answer["outputs"][0]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def top_logit(client: TestClient, image: bytes) -> tuple[int, float]:
    """Return index and logit of the best class, as `/classify` says."""
    best = client.post("/classify?top_k=1&evidence=true", content=image).json()["predictions"][0]
    return best["index"], best["logit"]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_encoded_images_get_the_logits_of_classify(client: TestClient, demo: Bundle, shape: list[int]) -> None:
    """Each row has the logits of its own image, in order."""
    names = ["two", "seven"]
    answer = client.post(INFER, json={"inputs": [encoded_input(*(digit(demo, name) for name in names), shape=shape)]})

    rows = logits_of(answer.json())
    for row, name in zip(rows, names, strict=True):
        index, logit = top_logit(client, digit(demo, name))
        assert int(row.argmax()) == index
        assert float(row.max()) == pytest.approx(logit, abs=1e-5)


def test_pixels_get_the_logits_of_their_image(client: TestClient, demo: Bundle) -> None:
    """Preprocessed pixels give the same logits as the encoded image, in JSON as in binary."""
    pixels = pixels_of(demo, "seven")
    entry: dict[str, Any] = {"name": "pixels", "datatype": "UINT8", "shape": [1, *pixels.shape]}
    document = json.dumps({"inputs": [entry | {"parameters": {"binary_data_size": pixels.size}}]}).encode()
    answers = [
        client.post(INFER, json={"inputs": [encoded_input(digit(demo, "seven"))]}),
        client.post(INFER, json={"inputs": [entry | {"data": pixels.ravel().tolist()}]}),
        client.post(INFER, content=document + pixels.tobytes(), headers={LENGTH: str(len(document))}),
        client.post(INFER, content=pixels.tobytes(), headers={LENGTH: "0"}),
    ]
    raw = np.frombuffer(answers[3].content[int(answers[3].headers[LENGTH]) :], "<f4")

    assert [logits_of(answer.json()).tolist() for answer in answers[1:3]] == [logits_of(answers[0].json()).tolist()] * 2
    assert raw.tolist() == logits_of(answers[0].json())[0].tolist()


def test_a_raw_encoded_image_is_one_input(client: TestClient, demo: Bundle) -> None:
    """A header length of 0 on `NAME.encoded` takes the body as one image, and returns all outputs as binary."""
    answer = client.post("/v2/models/digits.encoded/infer", content=digit(demo, "seven"), headers={LENGTH: "0"})
    length = int(answer.headers[LENGTH])

    assert answer.headers["content-type"] == "application/octet-stream"
    assert json.loads(answer.content[:length])["model_name"] == "digits.encoded"
    assert int(np.frombuffer(answer.content[length:], "<f4").argmax()) == 7


def test_binary_images_can_have_any_bytes(client: TestClient, demo: Bundle) -> None:
    """BYTES in their binary form, with one output binary and one in JSON."""
    data = as_bytes(digit(demo, "seven"), digit(demo, "two"))
    entry = {"name": "image", "datatype": "BYTES", "shape": [2, 1], "parameters": {"binary_data_size": len(data)}}
    outputs = [
        {"name": "embedding", "parameters": {"binary_data": True}},
        {"name": "logits", "parameters": {"classification": 2}},
    ]
    document = json.dumps({"id": "42", "inputs": [entry], "outputs": outputs}).encode()
    answer = client.post(INFER, content=document + data, headers={LENGTH: str(len(document))})
    length = int(answer.headers[LENGTH])
    header = json.loads(answer.content[:length])

    assert (header["id"], [output["name"] for output in header["outputs"]]) == ("42", ["embedding", "logits"])
    assert len(answer.content) - length == 2 * demo.manifest.evidence.channels * 4
    assert [text.split(":")[1:] for text in header["outputs"][1]["data"][::2]] == [["7", "seven"], ["2", "two"]]


def test_classes_are_written_as_triton_writes_them(client: TestClient, demo: Bundle) -> None:
    """The logit with six decimals, the index and the label; best first; at most all classes."""
    message = {
        "inputs": [encoded_input(digit(demo, "seven"))],
        "outputs": [{"name": "logits", "parameters": {"classification": 99}}],
    }
    output = client.post(INFER, json=message).json()["outputs"][0]
    del message["outputs"]
    row = logits_of(client.post(INFER, json=message).json())[0]

    order = sorted(range(10), key=lambda index: (-row[index], index))
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 10])
    assert output["data"] == [f"{row[index]:f}:{index}:{demo.labels[index].name}" for index in order]


def test_the_head_of_the_embedding_is_the_logits(client: TestClient, demo: Bundle) -> None:
    """Weight · embedding + bias equals the logits, in `/v2` as in `/classify`."""
    outputs = [{"name": "logits"}, {"name": "embedding"}]
    answer = client.post(INFER, json={"inputs": [encoded_input(digit(demo, "seven"))], "outputs": outputs}).json()
    embedding = np.array(answer["outputs"][1]["data"], np.float32)
    classified = client.post("/classify?embedding=true", content=digit(demo, "seven")).json()["embedding"]

    expected = contributions(embedding[None], demo.head).sum(axis=1)
    np.testing.assert_allclose(logits_of(answer)[0], expected, atol=1e-4)
    assert embedding.tolist() == np.array(classified, np.float32).tolist()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZIP", "x-gzip", "identity"])
def test_a_body_can_be_compressed(client: TestClient, demo: Bundle, coding: str) -> None:
    """Gzip and deflate are decompressed, as tritonclient sends them."""
    body = json.dumps({"inputs": [encoded_input(digit(demo, "seven"))]}).encode()
    packed = {"deflate": zlib.compress(body), "identity": body}.get(coding, gzip.compress(body))

    answer = client.post(INFER, content=packed, headers={"content-encoding": coding})
    assert int(logits_of(answer.json()).argmax()) == 7


@pytest.mark.parametrize(
    ("coding", "body", "code"),
    [
        ("gzip", b"no gzip", "invalid_body"),
        ("gzip", PACKED[:-1], "invalid_body"),
        ("gzip", PACKED + b"more", "invalid_body"),
        ("gzip", b"", "invalid_body"),
        ("br", b"{}", "unsupported_encoding"),
        ("gzip, gzip", b"{}", "unsupported_encoding"),
        ("gzip", gzip.compress(bytes(2**25 + 1), mtime=0), "image_too_large"),
    ],
    ids=["other bytes", "cut", "more bytes", "empty", "other coding", "two codings", "bomb"],
)
def test_a_compressed_body_that_cannot_be_read_is_refused(
    client: TestClient, coding: str, body: bytes, code: str
) -> None:
    """Damaged data and a bomb get an error of the client. The limit is that of the decompressed body."""
    answer = client.post(INFER, content=body, headers={"content-encoding": coding})

    assert answer.json()["code"] == code
    if code == "unsupported_encoding":
        assert answer.headers["accept-encoding"] == "gzip, deflate, identity"


def message_of(demo: Bundle, **changes: Any) -> dict[str, Any]:
    """Return a valid request with changes in its input."""
    return {"inputs": [encoded_input(digit(demo, "seven")) | changes]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "x"}, "unexpected inference input 'x' for model 'digits'"),
        ({"datatype": "UINT8", "data": [1], "parameters": {}}, "data-type is 'UINT8', but model 'digits' expects"),
        ({"shape": [1, 1, 1]}, "unexpected shape for input 'image'"),
        ({"shape": []}, "unexpected shape for input 'image'"),
        ({"shape": [0], "data": []}, "batch-size must be from 1 to 8"),
        ({"shape": [9], "data": [""] * 9}, "batch-size must be from 1 to 8"),
        ({"data": ["http://x"]}, "never as a URL"),
        ({"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [0] * 3}, "unexpected shape"),
    ],
)
def test_an_input_that_does_not_fit_the_model_is_refused(
    client: TestClient, demo: Bundle, changes: dict[str, Any], message: str
) -> None:
    """The error says what the model expects, in `error` as in `detail`."""
    answer = client.post(INFER, json=message_of(demo, **changes))

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_body")
    assert message in answer.json()["error"]
    assert answer.json()["error"] == answer.json()["detail"]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([{"name": "x"}], "unexpected inference output 'x'"),
        ([{"name": "logits"}, {"name": "logits"}], "requested more than once"),
        ([{"name": "embedding", "parameters": {"classification": 1}}], "has no classes"),
        ([{"name": "logits", "parameters": {"classification": -1}}], "greater than or equal to 0"),
        ([{"name": "logits", "parameters": {"classification": 1_000_001}}], "less than or equal to"),
    ],
)
def test_an_output_that_the_model_lacks_is_refused(
    client: TestClient, demo: Bundle, outputs: list[dict[str, Any]], message: str
) -> None:
    """The error says which outputs there are."""
    answer = client.post(INFER, json=message_of(demo) | {"outputs": outputs})

    assert (answer.status_code, message in answer.json()["error"]) == (400, True)


def test_two_inputs_are_refused(client: TestClient, demo: Bundle) -> None:
    """A request has one input, so that no answer can mix two."""
    answer = client.post(INFER, json={"inputs": [encoded_input(digit(demo, "seven"))] * 2})

    assert "expected 1 input but got 2 inputs" in answer.json()["error"]


def test_a_bad_image_is_named(client: TestClient, demo: Bundle) -> None:
    """If an image fails, the request fails with the index and the status of the first such image."""
    answer = client.post(INFER, json={"inputs": [encoded_input(digit(demo, "two"), b"\xff\xd8\xff", b"text")]})

    assert answer.status_code == 422
    assert answer.json()["error"].startswith("image 1 of the request: ")


def test_a_timeout_shortens_the_deadline(client: TestClient, demo: Bundle) -> None:
    """A timeout of a microsecond has passed when the request is read."""
    answer = client.post(INFER, json=message_of(demo) | {"parameters": {"timeout": 1}})

    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize("name", ["digits", "digits.encoded"])
def test_a_model_shows_one_input(client: TestClient, name: str) -> None:
    """Metadata and configuration have one input and one output, with and without the version in the path."""
    metadata = client.get(f"/v2/models/{name}").json()
    config = client.get(f"/v2/models/{name}/config").json()

    assert metadata == client.get(f"/v2/models/{name}/versions/1").json()
    assert [len(metadata[key]) for key in ("inputs", "outputs")] == [len(config[key]) for key in ("input", "output")]
    assert metadata["inputs"][0]["shape"] == [-1, *config["input"][0]["dims"]]
    assert config["max_batch_size"] == 8


@pytest.mark.parametrize(
    "path", ["cats", "digits/versions/2", "digits.encoded/versions/x", "cats.encoded/config", "digits.encoded.encoded"]
)
def test_an_unknown_model_has_triton_s_words(client: TestClient, path: str) -> None:
    """Clients search the message for `Request for unknown model`."""
    answer = client.get(f"/v2/models/{path}")

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model")
    assert "Request for unknown model: '" in answer.json()["error"]


@pytest.mark.parametrize("path", ["/v2/models/cats", "/v1/models/cats", "/v2/nothing", "/v2/logging"])
def test_an_error_is_plain_json(client: TestClient, path: str) -> None:
    """KServe's client shows the sentence of an error only if its Content-Type is `application/json`."""
    answer = client.get(path)

    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"] == answer.json()["detail"]


def test_an_unknown_model_is_refused_before_the_body(client: TestClient) -> None:
    """A request to infer with an unknown model gets 404, whatever its body is."""
    assert client.post("/v2/models/cats/infer", content=b"{").status_code == 404


def test_health_is_json(client: TestClient) -> None:
    """Liveness and readiness have a body, which KServe's client reads; unknown query parameters are ignored."""
    assert client.get("/v2/health/live?x=1").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/digits/ready").json() == {"name": "digits", "ready": True}


def test_readiness_says_why_not(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the service drains, readiness is false with 503 and an error, and the index is empty or says why."""
    monkeypatch.setattr(client.app.state.service, "is_draining", True)  # type: ignore[attr-defined]  # (a FastAPI)
    answers = [client.get(path) for path in ("/v2/health/ready", "/v2/models/digits/ready", "/v1/models/digits")]
    index = client.post("/v2/repository/index").json()

    assert [(answer.status_code, answer.json()["ready"]) for answer in answers] == [(503, False)] * 3
    assert all(answer.json()["error"] for answer in answers)
    assert {entry["state"] for entry in index} == {"UNAVAILABLE"}
    assert client.post("/v2/repository/index", json={"ready": True}).json() == []


def test_the_index_lists_both_names(client: TestClient) -> None:
    """The index has the model with its input `pixels`, and with its input `image`."""
    index = client.post("/v2/repository/index", json={}).json()

    assert [(entry["name"], entry["state"]) for entry in index] == [("digits", "READY"), ("digits.encoded", "READY")]
    assert client.post("/v2/repository/index", json={"ready": "yes"}).status_code == 400


def test_a_large_request_for_the_index_is_refused(client: TestClient) -> None:
    """A body that would hold the event loop is refused unread."""
    answer = client.post("/v2/repository/index", content=b'{"ready": true}'.ljust(SMALL_BYTES + 1))

    assert (answer.status_code, "has at most 65536" in answer.json()["error"]) == (400, True)


def test_statistics_count_every_image(client: TestClient, demo: Bundle) -> None:
    """The images of a request, its batches and their times are in the statistics."""

    def stats() -> dict[str, Any]:
        found: dict[str, Any] = client.get("/v2/models/digits/stats").json()["model_stats"][0]
        return found

    before = stats()
    client.post(INFER, json={"inputs": [encoded_input(digit(demo, "two"), digit(demo, "seven"))]})
    client.post(INFER, json=message_of(demo, name="x"))
    after = stats()

    def added(*path: str) -> int:
        one: Any = before
        other: Any = after
        for key in path:
            one, other = one[key], other[key]
        return int(other) - int(one)

    assert (added("inference_count"), added("inference_stats", "fail", "count")) == (2, 1)
    assert 1 <= added("execution_count") <= 2
    assert sum(batch["compute_infer"]["count"] for batch in after["batch_stats"]) == after["execution_count"]
    parts = sum(
        added("inference_stats", part, "ns") for part in ("queue", "compute_input", "compute_infer", "compute_output")
    )
    assert added("inference_stats", "success", "ns") == pytest.approx(parts, abs=9)
    assert client.get("/v2/models/stats").json()["model_stats"][0] == after


@pytest.mark.parametrize(
    "path",
    [
        "/v2/systemsharedmemory/region/x/register",
        "/v2/cudasharedmemory/status",
        "/v2/trace/setting",
        "/v2/models/digits/trace/setting",
        "/v2/logging",
        "/v2/models/digits/generate",
        "/v2/repository/models/digits/load",
        "/v2/repository/models/digits/unload",
    ],
)
def test_other_parts_of_triton_are_not_supported(client: TestClient, path: str) -> None:
    """They get 501 with an error that a client can show."""
    answer = client.post(path, json={})

    assert (answer.status_code, answer.json()["code"]) == (501, "not_supported")
    assert answer.json()["error"].endswith(" is not supported.")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2/nothing", 404), ("PUT", INFER, 405)])
def test_unknown_paths_and_methods_have_an_error(client: TestClient, method: str, path: str, status: int) -> None:
    """A client that reads only `error` shows the reason."""
    answer = client.request(method, path)

    assert (answer.status_code, bool(answer.json()["error"])) == (status, True)
