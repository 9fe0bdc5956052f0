"""Tests of the service over HTTP, in one process: routes, errors, metrics."""

import asyncio
import io
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from app import errors
from app.bundle.load import Bundle
from app.errors import DeviceError
from app.http import parameters
from app.images.decode import Limits, open_image, to_rgb
from app.inference.engine import Engine
from app.inference.self_test import open_unverified, open_verified
from app.main import create_app
from app.settings import Settings
from app.system.device import Device
from tests.references.draw import draw_picture
from tests.support.clients import caller_of
from tests.support.images import encode, header_of_png

SETTINGS = Settings(device="cpu", threads=1)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of a service with the demo bundle."""
    with TestClient(create_app(SETTINGS)) as client:
        yield client


def digit(demo: Bundle, name: str) -> bytes:
    return (demo.folder / f"golden/{name}.png").read_bytes()


def value(client: TestClient, name: str, **labels: str) -> float:
    """Return one sample of the metrics, or 0."""
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return 0.0


@pytest.mark.parametrize("name", ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
def test_a_digit_is_classified(client: TestClient, demo: Bundle, name: str) -> None:
    """For an image as the body, the first of five predictions is its class."""
    answer = client.post("/classify", content=digit(demo, name)).json()["predictions"]

    assert name == answer[0]["label"]
    assert len(answer) == 5


def test_a_form_is_the_same_request(client: TestClient, demo: Bundle) -> None:
    """An image as the body and in the field `file` of a form have the same result."""
    data = digit(demo, "seven")

    raw = client.post("/classify", content=data)
    form = client.post("/classify", files={"file": ("seven.png", data, "image/png")})

    assert raw.json() == form.json()


def test_a_form_needs_no_disk(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo of several megabytes in a form is held in memory, because the disk can be read-only."""
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    photo = encode(Image.effect_noise((2000, 1500), 90))
    assert len(photo) > 2**20

    assert client.post("/classify", files={"file": photo}).status_code == 200


@pytest.mark.parametrize(("query", "count"), [("", 5), ("?top_k=1", 1), ("?top_k=10", 10), ("?top_k=99", 10)])
def test_top_k(client: TestClient, demo: Bundle, query: str, count: int) -> None:
    """The result has `top_k` classes, or all if the network has fewer, best first."""
    scores = [
        row["score"] for row in client.post(f"/classify{query}", content=digit(demo, "two")).json()["predictions"]
    ]

    assert count == len(scores)
    assert sorted(scores, reverse=True) == scores


@pytest.mark.parametrize(("filling", "cached"), [("", 1), ("&" * 1000, 0)], ids=["short", "long"])
def test_long_queries_are_not_cached(client: TestClient, demo: Bundle, filling: str, cached: int) -> None:
    """The parameters of short queries are cached, those of long queries are not."""
    parameters._read_cached.cache_clear()  # noqa: SLF001 (only this test reads the cache)
    answer = client.post(f"/classify?top_k=3{filling}", content=digit(demo, "two"))

    assert len(answer.json()["predictions"]) == 3
    assert cached == parameters._read_cached.cache_info().currsize  # noqa: SLF001 (likewise)


def test_stage_times_are_in_the_response(client: TestClient, demo: Bundle) -> None:
    """Server-Timing has the time of each stage of the request."""
    header = client.post("/classify", content=digit(demo, "two")).headers["server-timing"]

    stages = {part.split(";dur=")[0] for part in header.split(", ")}
    assert {"read", "decode", "preprocess", "queue", "infer", "rank"} == stages


def test_evidence_sums_to_the_logit(client: TestClient, demo: Bundle) -> None:
    """Each class has its map, and the sum of a map is the logit from which the score follows."""
    answer = client.post("/classify?evidence=true&top_k=10", content=digit(demo, "seven")).json()["predictions"]

    logits = np.array([row["logit"] for row in answer])
    maps = np.array([row["evidence"] for row in answer])
    assert maps.shape == (10, 4, 4)
    assert np.abs(maps.sum(axis=(1, 2)) - logits).max() <= 1e-4 * np.ptp(logits)
    assert np.allclose(np.exp(logits) / np.exp(logits).sum(), [row["score"] for row in answer], atol=1e-5)
    assert [demo.head.bias[row["index"]].item() for row in answer] == [row["bias"] for row in answer]


def test_evidence_is_an_addition(client: TestClient, demo: Bundle) -> None:
    """Evidence adds fields to the predictions and changes no other field, alone and in a batch."""
    data = digit(demo, "seven")
    plain = client.post("/classify", content=data).json()["predictions"]
    asked = client.post("/classify?evidence=true", content=data).json()["predictions"]
    (batch,) = client.post("/classify/batch?evidence=true", files={"files": data}).json()["results"]

    assert {"index", "label", "score"} == plain[0].keys()
    assert {"index", "label", "score", "logit", "bias", "evidence"} == asked[0].keys()
    assert plain == [{key: row[key] for key in ("index", "label", "score")} for row in asked]
    assert asked == batch["predictions"]


@pytest.mark.parametrize(("query", "index"), [("", 7), ("&class=3", 3)])
def test_evidence_as_a_picture(client: TestClient, demo: Bundle, query: str, index: int) -> None:
    """`format=png` returns a PNG for the best class, or for `class`, with the class in X-Class-Index."""
    answer = client.post(f"/classify?evidence=true&format=png{query}", content=digit(demo, "seven"))

    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.headers["x-class-index"] == str(index)
    assert Image.open(io.BytesIO(answer.content)).size == (224, 224)


def test_each_class_has_its_picture(client: TestClient, demo: Bundle) -> None:
    """The pictures of the evidence for ten classes are all different."""
    pictures = {
        client.post(f"/classify?evidence=true&format=png&class={index}", content=digit(demo, "seven")).content
        for index in range(10)
    }

    assert len(pictures) == 10


@pytest.mark.parametrize("query", ["", "&format=png"])
def test_evidence_is_a_stage_of_its_own(client: TestClient, demo: Bundle, query: str) -> None:
    """Server-Timing and metrics have the stage `evidence` if the request asks for evidence."""
    counted = value(client, "swin_stage_seconds_count", stage="evidence")

    header = client.post(f"/classify?evidence=true{query}", content=digit(demo, "two")).headers["server-timing"]

    stages = {part.split(";dur=")[0] for part in header.split(", ")}
    assert {"read", "decode", "preprocess", "queue", "infer", "evidence"} <= stages
    assert counted + 1 == value(client, "swin_stage_seconds_count", stage="evidence")


def test_a_batch_has_a_result_or_an_error_per_image_in_order(client: TestClient, demo: Bundle) -> None:
    """An invalid image in a batch has an error, and the others have results, in order."""
    files = [("files", digit(demo, "three")), ("files", b"no image"), ("files", digit(demo, "four"))]

    results = client.post("/classify/batch", files=files).json()["results"]

    assert results[0]["predictions"][0]["label"] == "three"
    assert results[1]["error"]["code"] == "unsupported_image"
    assert results[2]["predictions"][0]["label"] == "four"


def test_a_large_image_is_classified(client: TestClient) -> None:
    """An image that is too large for decoding in the event loop is classified, too."""
    assert client.post("/classify", content=encode(draw_picture(900, 700), "JPEG")).status_code == 200


BIG = 20_000
FORM = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (encode(draw_picture(300, 200), "JPEG")[:3000], 422, "unreadable_image"),
        (b"", 422, "unreadable_image"),
        (b"I am a text file, not an image.\n", 415, "unsupported_image"),
        (header_of_png(BIG, BIG), 413, "image_too_large"),
        (encode(Image.new("1", (BIG, BIG))), 413, "image_too_large"),
    ],
    ids=["truncated JPEG", "empty body", "text file", "header of a bomb", "20000×20000 PNG"],
)
def test_bad_images_get_their_problem_document(client: TestClient, data: bytes, status: int, code: str) -> None:
    """An invalid image gets a problem document (RFC 9457) with the status of its error."""
    answer = client.post("/classify", content=data)

    assert (status, "application/problem+json") == (answer.status_code, answer.headers["content-type"])
    assert {"type", "title", "status", "detail", "code", "error"} == answer.json().keys()
    assert (status, code) == (answer.json()["status"], answer.json()["code"])


@pytest.mark.parametrize(
    ("path", "options", "status", "code"),
    [
        ("/classify?top_k=0", {"content": b"x"}, 422, "invalid_parameter"),
        ("/classify?top_k=many", {"content": b"x"}, 422, "invalid_parameter"),
        ("/classify?evidence=perhaps", {"content": b"x"}, 422, "invalid_parameter"),
        ("/classify?evidence=true&top_k=101", {"content": b"x"}, 422, "invalid_parameter"),
        ("/classify/batch?evidence=true&top_k=101", {"files": {"files": b"x"}}, 422, "invalid_parameter"),
        ("/classify?format=png", {"content": b"x"}, 422, "invalid_parameter"),
        ("/classify?evidence=true&format=gif", {"content": b"x"}, 422, "invalid_parameter"),
        ("/classify?evidence=true&class=1", {"content": b"x"}, 422, "invalid_parameter"),
        ("/classify?evidence=true&format=png&class=10", {"content": b"x"}, 422, "invalid_parameter"),
        ("/classify?evidence=true&format=png&class=-1", {"content": b"x"}, 422, "invalid_parameter"),
        ("/classify?topk=3", {"content": b"x"}, 422, "invalid_parameter"),
        ("/classify?top_k=3&top_k=4", {"content": b"x"}, 422, "invalid_parameter"),
        ("/classify/batch?format=png", {"files": {"files": b"x"}}, 422, "invalid_parameter"),
        ("/classify/batch?class=1", {"files": {"files": b"x"}}, 422, "invalid_parameter"),
        ("/classify", {"files": {"wrong": b"x"}}, 422, "invalid_parameter"),
        ("/classify", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 422, "invalid_parameter"),
        ("/classify", {"files": [("file", b"x"), ("file", b"y")]}, 422, "invalid_parameter"),
        (
            "/classify",
            {"content": b"x", "headers": {"content-type": f"{FORM}; charset=undefined"}},
            422,
            "invalid_parameter",
        ),
        ("/classify", {"content": b"x", "headers": {"content-type": "multipart/form-datax"}}, 415, "unsupported_image"),
        ("/classify/batch", {"content": b"x"}, 422, "invalid_parameter"),
        ("/classify/batch", {"files": [("files", b"x")] * 65}, 422, "invalid_parameter"),
        ("/nowhere", {"content": b"x"}, 404, "not_found"),
        ("/health/live", {"content": b"x"}, 405, "method_not_allowed"),
    ],
)
def test_bad_requests_get_a_problem_document(
    client: TestClient, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    """Invalid parameters, forms, paths and methods get a problem document, too."""
    answer = client.post(path, **options)

    assert (status, code) == (answer.status_code, answer.json()["code"])


def test_a_body_over_the_limit_is_refused() -> None:
    """A body over the limit is refused by its Content-Length, or by its bytes without one."""
    with TestClient(create_app(Settings(device="cpu", threads=1, max_body_mib=1))) as client:
        announced = client.post("/classify", content=b"x", headers={"content-length": str(2**20 + 1)})
        streamed = client.post("/classify", content=iter([b"x" * 2**20, b"x"]))

    assert [announced.status_code, streamed.status_code] == [413, 413]


def test_text_fields_beside_the_file_are_ignored(client: TestClient, demo: Bundle) -> None:
    """Text fields in a form beside the image have no effect."""
    answer = client.post(
        "/classify", files={"file": digit(demo, "two")}, data={"name": "x", "number": "1", "more": "y"}
    )

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("data", "thread"),
    [
        (encode(draw_picture(100, 100)), "event loop"),
        (encode(Image.new("L", (500, 500))), "pool"),
        (encode(draw_picture(8, 8)) + bytes(2**16), "pool"),
    ],
    ids=["small", "many pixels", "many bytes"],
)
def test_only_small_images_are_decoded_in_the_event_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, data: bytes, thread: str
) -> None:
    """Images with many pixels, or with many bytes that can be a long header, are decoded in the thread pool."""
    threads = list[str]()

    def watched(image: Image.Image, **options: bool) -> Image.Image:
        threads.append("pool" if threading.current_thread().name.startswith("decode") else "event loop")
        return to_rgb(image, **options)

    monkeypatch.setattr("app.images.reading.to_rgb", watched)

    assert client.post("/classify", content=data).status_code == 200
    assert threads == [thread]


def test_a_long_header_is_read_in_a_thread(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow reads headers in Python, which takes seconds for a large one and would block the event loop."""
    threads = list[str]()

    def watched(data: bytes, limits: Limits) -> Image.Image:
        threads.append(threading.current_thread().name.partition("_")[0])
        return open_image(data, limits)

    monkeypatch.setattr("app.classification.decoding.open_image", watched)
    client.post("/classify", content=encode(draw_picture(8, 8)) + bytes(2**16))

    assert threads == ["decode"]


def test_the_request_id_is_kept_or_replaced(client: TestClient) -> None:
    """The response repeats a valid X-Request-ID; one that could forge a log line is replaced."""
    kept = client.get("/health/live", headers={"x-request-id": "abc-123"}).headers["x-request-id"]
    replaced = client.get("/health/live", headers={"x-request-id": "a b\tc"}).headers["x-request-id"]

    assert kept == "abc-123"
    assert len(replaced) == 32


def test_health_and_model(client: TestClient, demo: Bundle) -> None:
    """Liveness and readiness succeed, and `/model` reports the manifest, the device and the batch sizes."""
    assert client.get("/health/live").json() == {"status": "alive"}
    assert client.get("/health/ready").json() == {"status": "ready"}

    model = client.get("/model").json()
    assert demo.manifest.model_dump(mode="json") == model["manifest"]
    (engine,) = model["engines"]
    assert engine["provider"] == "CPUExecutionProvider"
    sizes = [bucket["batch"] for bucket in engine["buckets"]]
    assert sizes == [1 << power for power in range(len(sizes))]


def test_metrics_count(client: TestClient, demo: Bundle) -> None:
    """Metrics count requests by route and code, by stage, and by the reason of a refusal."""
    before = value(client, "swin_requests_total", route="/classify", code="200")
    refused = value(client, "swin_rejected_total", reason="unsupported_image")
    ranked = value(client, "swin_stage_seconds_count", stage="rank")
    client.post("/classify", content=digit(demo, "two"))
    client.post("/classify", content=b"no image")

    assert before + 1 == value(client, "swin_requests_total", route="/classify", code="200")
    assert refused + 1 == value(client, "swin_rejected_total", reason="unsupported_image")
    assert ranked + 1 == value(client, "swin_stage_seconds_count", stage="rank")
    assert value(client, "swin_ready") == 1


@pytest.mark.parametrize(
    ("image", "code", "is_busy"),
    [
        (encode(draw_picture(300, 200), "JPEG"), 200, True),
        (encode(draw_picture(300, 200), "JPEG")[:3000], 422, True),
        (encode(draw_picture(32, 32), "PNG"), 200, False),
    ],
    ids=["photo", "truncated photo", "small image"],
)
def test_busy_time_of_decode_threads_counts_failures(
    client: TestClient, image: bytes, code: int, *, is_busy: bool
) -> None:
    """Photos count as busy time of the decode threads even if they are damaged; small images do not count."""
    before = value(client, "swin_decode_busy_seconds_total")

    assert client.post("/classify", content=image).status_code == code
    assert (value(client, "swin_decode_busy_seconds_total") > before) is is_busy


def test_a_defect_is_a_500_and_logged_once(
    client: TestClient, demo: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect gets a 500 without details, and one stack trace in the log."""
    monkeypatch.setattr("app.classification.classifier.top_k", None)
    with caplog.at_level(logging.ERROR):
        answer = client.post("/classify", content=digit(demo, "two"))

    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "TypeError" not in answer.text
    assert len(caplog.records) == 1
    assert "x-request-id" in answer.headers


@pytest.mark.anyio
@pytest.mark.usefixtures("all_batches_pay")
async def test_concurrent_requests_get_their_own_results() -> None:
    """Each of 64 concurrent images has the result that it has alone, although batches form."""
    random = np.random.default_rng(0)
    images = [encode(Image.fromarray(random.integers(0, 256, (32, 32), np.uint8))) for _ in range(64)]
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        sample = app.state.service.metrics.registry.get_sample_value
        alone = [scores(await caller.post("/classify?top_k=10", content=image)) for image in images]
        batches_alone = sample("swin_batch_size_count")
        together = await asyncio.gather(*(caller.post("/classify?top_k=10", content=image) for image in images))
        batches_together = sample("swin_batch_size_count") - batches_alone

    assert len({tuple(np.round(row, 4)) for row in alone}) == 64
    assert np.allclose(alone, [scores(answer) for answer in together], atol=1e-5)
    assert batches_alone == 64
    assert 1 <= batches_together < 64


def test_auto_serves_on_the_cpu_if_cuda_fails(
    demo: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If a check fails on the GPU, such as a golden sample, `auto` uses the CPU and logs the reason."""

    def verified(bundle: Bundle, device: Device, threads: int, buckets: Sequence[int], **options: bool) -> Engine:
        if device.kind == "cuda":
            raise DeviceError("golden sample 0 differs by 3 on cuda")
        return open_verified(bundle, device, threads, buckets, **options)

    monkeypatch.setattr("app.inference.pool.require_gpu_build", lambda: None)
    monkeypatch.setattr("app.inference.cuda.gpu_count", lambda: 1)
    monkeypatch.setattr("app.inference.pool.open_verified", verified)
    with caplog.at_level(logging.INFO), TestClient(create_app(Settings(device="auto"))) as client:
        assert client.get("/model").json()["engines"][0]["device"] == "cpu"
        assert client.post("/classify", content=digit(demo, "two")).status_code == 200

    assert "golden sample 0 differs by 3 on cuda" in [getattr(record, "why", None) for record in caplog.records]


# Seconds for an image with all threads. One thread is tried for a small network only.
SMALL, LARGE = 2**-8, 2**-6


@pytest.mark.parametrize(
    ("given", "seconds", "serving"),
    [
        ({}, {2: SMALL, 1: 1.4 * SMALL}, 1),
        ({}, {2: SMALL, 1: 1.5 * SMALL}, 2),
        ({}, {2: LARGE}, 2),
        ({"threads": 2}, {2: SMALL}, 2),
        ({"instances_per_device": 2}, {1: SMALL}, 1),
    ],
    ids=["no gain", "gain", "large", "asked for", "one each"],
)
def test_a_small_network_without_gain_by_threads_gets_one(
    given: dict[str, int], seconds: dict[int, float], serving: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the setting `threads`, a small network is measured with all threads and with one."""
    tried = list[int]()

    def measured(bundle: Bundle, device: Device, threads: int, buckets: Sequence[int], **_: bool) -> Engine:
        tried.append(threads)
        engine = open_unverified(bundle, device, threads, buckets)
        engine.bucket_seconds = {1: seconds[threads]}
        return engine

    monkeypatch.setattr("app.inference.pool.open_verified", measured)
    monkeypatch.setattr("app.inference.pool.available_cpus", lambda: 2)
    with TestClient(create_app(Settings.model_validate({"device": "cpu", **given}))) as client:
        engine, *_ = client.get("/model").json()["engines"]

    assert (list(seconds), serving) == (tried, engine["threads"])


@pytest.mark.anyio
async def test_a_request_leaves_no_task_behind(demo: Bundle) -> None:
    """After the responses, no task remains."""
    app = create_app(SETTINGS)
    async with app.router.lifespan_context(app), caller_of(app) as caller:
        before = len(asyncio.all_tasks())
        for _ in range(3):
            await caller.post("/classify", content=digit(demo, "two"))
        await asyncio.sleep(0)

        assert len(asyncio.all_tasks()) == before


def scores(answer: httpx.Response) -> list[float]:
    """Return the scores in the order of the classes."""
    rows = answer.json()["predictions"]
    return [row["score"] for row in sorted(rows, key=lambda row: row["index"])]


def test_every_error_has_a_status_and_is_documented(client: TestClient) -> None:
    """Each error class without subclasses has its own code, and OpenAPI has it under its status if HTTP has it."""
    paths = client.get("/openapi.json").json()["paths"]
    described = {
        (status, code)
        for operations in paths.values()
        for operation in operations.values()
        for status, response in operation["responses"].items()
        for code in re.findall(r"`(\w+)`", response["description"])
    }
    leaves = [leaf for leaf in descendants(errors.ServiceError) if not leaf.__subclasses__()]

    assert len(leaves) == len({leaf.code for leaf in leaves})
    for leaf in {*leaves} - {errors.TooManyCalls, errors.TooManyStreams}:
        assert (str(leaf.status), leaf.code) in described


def descendants(kind: type[errors.ServiceError]) -> list[type[errors.ServiceError]]:
    return [each for child in kind.__subclasses__() for each in (child, *descendants(child))]


def test_fast_decoding_changes_scores_a_little() -> None:
    """With `decode=fast`, the scores of a large JPEG differ by less than 0.02."""
    photo = encode(draw_picture(1600, 1200), "JPEG")
    scores = list[dict[str, float]]()
    for decode in ("exact", "fast"):
        with TestClient(create_app(Settings.model_validate({"device": "cpu", "decode": decode}))) as client:
            predictions = client.post("/classify", content=photo, params={"top_k": 10}).json()["predictions"]
            scores.append({prediction["label"]: prediction["score"] for prediction in predictions})
    exact, fast = scores

    assert exact != fast
    assert pytest.approx(exact, abs=0.02) == fast


def test_two_engines_give_the_same_results() -> None:
    """With two instances, both engines share a session, and each image has its own result."""
    images = [encode(draw_picture(32, 32, seed)) for seed in range(24)]
    app = create_app(Settings.model_validate({"device": "cpu", "instances_per_device": 2, "max_batch": 2}))
    with TestClient(app) as client:
        first, second = app.state.service.backend.engines
        alone = [client.post("/classify", content=image).json() for image in images]
        together = client.post("/classify/batch", files=[("files", image) for image in images]).json()["results"]

    assert first._session is second._session  # noqa: SLF001 (both share the weights)
    for one, other in zip(alone, together, strict=True):
        scores = [{row["label"]: row["score"] for row in result["predictions"]} for result in (one, other)]
        assert pytest.approx(scores[0], abs=1e-5) == scores[1]
