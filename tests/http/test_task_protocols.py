"""Tests of the routes for clients of Hugging Face, TorchServe and KServe V1, with the demonstration bundle."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.bundle.load import Bundle
from app.errors import Overloaded
from app.main import create_app
from app.settings import Settings

HUGGING_FACE = ["/", "/models/digits"]
PREDICT = "/v1/models/digits:predict"


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of a service with the demonstration bundle."""
    with TestClient(create_app(Settings(device="cpu", threads=1, max_client_batch_size=8))) as client:
        yield client


def digit(demo: Bundle, name: str) -> bytes:
    """Return the golden sample of this name."""
    return (demo.folder / "golden" / f"{name}.png").read_bytes()


def as_base64(image: bytes) -> str:
    """Return an image in base64."""
    return base64.b64encode(image).decode()


def predictions(client: TestClient, image: bytes, query: str = "") -> list[dict[str, Any]]:
    """Return the predictions of `/classify`."""
    found: list[dict[str, Any]] = client.post(f"/classify{query}", content=image).json()["predictions"]
    return found


@pytest.mark.parametrize("path", HUGGING_FACE)
def test_hugging_face_gets_the_predictions_of_classify(client: TestClient, demo: Bundle, path: str) -> None:
    """Raw bytes with or without a Content-Type, and base64 in JSON, give the list of predictions."""
    image = digit(demo, "seven")
    answers = [
        client.post(path, content=image),
        client.post(path, content=image, headers={"content-type": "image/png"}),
        client.post(path, json={"inputs": as_base64(image)}),
        client.post(path, json={"inputs": as_base64(image), "parameters": {"top_k": None}, "options": {"x": 1}}),
    ]
    expected = predictions(client, image)

    assert [answer.json() for answer in answers] == [
        [{"label": each["label"], "score": each["score"], "index": each["index"]} for each in expected]
    ] * len(answers)


def test_a_function_can_be_applied(client: TestClient, demo: Bundle) -> None:
    """`none` gives logits, `sigmoid` each class by itself, and `top_k` the number of classes."""
    image = digit(demo, "seven")

    def ask(function: str) -> list[dict[str, Any]]:
        parameters = {"function_to_apply": function, "top_k": 3}
        found: list[dict[str, Any]] = client.post(
            "/", json={"inputs": as_base64(image), "parameters": parameters}
        ).json()
        return found

    explained = predictions(client, image, "?evidence=true&top_k=3")
    logits = [each["logit"] for each in explained]
    assert [each["score"] for each in ask("none")] == logits
    assert [each["score"] for each in ask("softmax")] == [each["score"] for each in explained]
    assert [each["score"] for each in ask("sigmoid")] == pytest.approx(
        [1 / (1 + pow(2.718281828459045, -logit)) for logit in logits], rel=1e-6
    )


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        ({"inputs": "http://host/x.png"}, "never as a URL"),
        ({"inputs": "/etc/passwd"}, "is not base64"),
        ({"inputs": 1}, "inputs: Input should be a valid string"),
        ({}, "inputs: missing key"),
        ({"inputs": "", "parameters": {"top_k": 0}}, "top_k: "),
        ({"inputs": "", "parameters": {"function_to_apply": "tanh"}}, "function_to_apply: "),
        ({"inputs": "", "parameters": {"threshold": 1}}, "threshold: unknown key"),
    ],
)
def test_a_message_of_hugging_face_that_is_not_valid_is_refused(
    client: TestClient, message: dict[str, Any], detail: str
) -> None:
    """The error names the member, in `error` as the client shows it."""
    answer = client.post("/", json=message)

    assert (answer.status_code, detail in answer.json()["error"]) == (400, True)


def test_features_are_the_embedding(client: TestClient, demo: Bundle) -> None:
    """The features of the pipeline's shape (1, channels) equal the embedding of `/classify`."""
    image = digit(demo, "seven")
    path = "/models/digits/features"
    embedding = client.post("/classify?embedding=true", content=image).json()["embedding"]

    assert client.post(path, content=image).json() == [embedding]
    assert client.post(path, json={"inputs": as_base64(image), "parameters": {"pool": True}}).json() == [embedding]
    assert client.post(path, json={"inputs": as_base64(image), "parameters": {"pool": False}}).status_code == 400


@pytest.mark.parametrize(("member", "value"), [("normalize", True), ("dimensions", 8), ("encoding_format", "base64")])
def test_features_that_the_service_lacks_are_refused(client: TestClient, demo: Bundle, member: str, value: Any) -> None:
    """`feature_extraction` writes parameters beside `inputs`. Ignored ones would give a wrong result."""
    message = {"inputs": as_base64(digit(demo, "seven")), "truncate": True, "prompt_name": "query"}
    path = "/models/digits/features"
    answer = client.post(path, json=message | {member: value})

    assert client.post(path, json=message | {member: None}).status_code == 200
    assert (answer.status_code, f"{member}: " in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize("path", ["/predictions/digits", "/predictions/digits/1"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_torchserve_gets_an_object_of_scores(client: TestClient, demo: Bundle, method: str, path: str) -> None:
    """The five best labels with their scores, best first, for a raw body."""
    answer = client.request(method, path, content=digit(demo, "seven"))
    expected = predictions(client, digit(demo, "seven"))

    assert list(answer.json().items()) == [(each["label"], each["score"]) for each in expected]


@pytest.mark.parametrize("name", ["data", "body"])
@pytest.mark.parametrize("with_name", [True, False])
def test_torchserve_takes_forms(client: TestClient, demo: Bundle, name: str, with_name: bool) -> None:  # noqa: FBT001 (pytest passes it by name)
    """A part `data` or `body` is the image, with or without a file name."""
    part = ("x.png" if with_name else None, digit(demo, "seven"))
    answer = client.post("/predictions/digits", files={name: part})

    assert max(answer.json(), key=answer.json().__getitem__) == "seven"


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("POST", "/predictions/cats", 404, "ModelNotFoundException"),
        ("POST", "/predictions/digits/2.0", 404, "ModelNotFoundException"),
        ("POST", "/predictions/digits", 415, "BadRequestException"),
        ("GET", "/predictions/digits", 405, "MethodNotAllowedException"),
        ("POST", "/predictions/a/b/c", 404, "ModelNotFoundException"),
    ],
)
def test_torchserve_has_its_own_errors(client: TestClient, method: str, path: str, status: int, kind: str) -> None:
    """Below `/predictions`, an error is code, type and message, with the status of ours."""
    answer = client.request(method, path, content=b"text")

    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"code", "type", "message"}
    assert (answer.status_code, answer.json()["code"], answer.json()["type"]) == (status, status, kind)


def test_torchserve_s_refusal_says_when_to_retry(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal before the endpoint has the same form, and Retry-After."""

    def refuse(*_: Any) -> None:
        raise Overloaded(3)

    monkeypatch.setattr(client.app.state.service.classifier, "admit", refuse)  # type: ignore[attr-defined]  # (a FastAPI)
    answer = client.post("/predictions/digits", content=b"x")

    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert answer.json()["type"] == "ServiceUnavailableException"


def test_ping_is_health(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/ping` is 200 while the service is ready, else 500."""
    assert (client.get("/ping").status_code, client.get("/ping").json()) == (200, {"status": "Healthy"})
    monkeypatch.setattr(client.app.state.service, "is_draining", True)  # type: ignore[attr-defined]  # (a FastAPI)
    assert client.get("/ping").status_code == 500


def test_kserve_takes_three_forms_of_instances(client: TestClient, demo: Bundle) -> None:
    """Each instance gets its own predictions, in order, whatever form its base64 has."""
    seven, two = as_base64(digit(demo, "seven")), as_base64(digit(demo, "two"))
    instances = [{"data": seven}, {"b64": two}, {"image_bytes": {"b64": seven}}]
    answer = client.post(PREDICT, json={"instances": instances}).json()["predictions"]

    assert [next(iter(each)) for each in answer] == ["seven", "two", "seven"]
    assert [len(each) for each in answer] == [5, 5, 5]


@pytest.mark.parametrize(
    ("instances", "status", "message"),
    [
        ([], 400, "instances: "),
        ([{}], 400, "instance 0 must have exactly one of"),
        ([{"data": "", "b64": ""}], 400, "instance 0 must have exactly one of"),
        ([{"data": "!"}], 400, "instance 0 is not base64"),
        ([{"data": ""}] * 9, 400, "send at most 8"),
        ([{"data": as_base64(b"text")}], 415, "not an image"),
        ("x", 400, "instances: "),
    ],
)
def test_instances_that_are_not_valid_are_refused(
    client: TestClient, instances: Any, status: int, message: str
) -> None:
    """The error names the instance."""
    answer = client.post(PREDICT, json={"instances": instances})

    assert (answer.status_code, message in answer.json()["error"]) == (status, True)


def test_kserve_lists_models(client: TestClient) -> None:
    """The names, the readiness, and an error for an unknown name."""
    assert client.get("/v1/models").json() == {"models": ["digits"]}
    assert client.get("/v1/models/digits").json() == {"name": "digits", "ready": True}
    assert client.get("/v1/models/cats").status_code == 404
    assert client.post("/v1/models/cats:predict", json={}).status_code == 404


def test_a_model_has_the_name_of_the_settings(demo: Bundle) -> None:
    """With `model_name`, the paths of all protocols have this name, so that clients stay unchanged."""
    with TestClient(create_app(Settings(device="cpu", threads=1, model_name="resnet-18"))) as client:
        paths = ["/v2/models/resnet-18.encoded/infer", "/predictions/resnet-18", "/models/resnet-18"]
        headers = {"Inference-Header-Content-Length": "0"}
        answers = [client.post(path, content=digit(demo, "two"), headers=headers) for path in paths]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
