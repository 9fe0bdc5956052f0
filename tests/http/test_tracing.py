"""Tests of the spans of requests, of one process: what a collector receives from `app/http/middleware/context.py`."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from starlette.testclient import TestClient

from app.bundle.load import Bundle
from app.main import create_app
from app.observability import logging as logs
from app.settings import Settings
from tests.support.collector import Collector, Received
from tests.support.engines import FailingSession

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = ({"traceparent": f"00-{TRACE}-{PARENT}-{flags}"} for flags in ("01", "00"))


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A running collector."""
    with Collector() as collector:
        yield collector


@pytest.fixture
def client_of(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TestClient]:
    """Return clients of services that export to the collector. The end of a client's block exports all spans."""

    def client_of(**variables: str) -> TestClient:
        for name, value in (collector.variables | variables).items():
            monkeypatch.setenv(name, value)
        return TestClient(create_app(Settings(device="cpu", threads=1)), client=("192.0.2.1", 50000))

    return client_of


@pytest.fixture
def digit(demo: Bundle) -> bytes:
    """A PNG file that the service classifies."""
    return (demo.folder / "golden/two.png").read_bytes()


def form_of(*images: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (f"{number}.png", image)) for number, image in enumerate(images)]


def test_a_request_is_a_span_below_that_of_its_client(
    collector: Collector, client_of: Callable[..., TestClient], digit: bytes
) -> None:
    """The span of a request has the trace, the parent and the state of its client, and the attributes of HTTP."""
    with client_of() as client:
        client.post("/classify", content=digit, headers=SAMPLED | {"tracestate": "vendor=1"})

    (request,) = collector.named("POST /classify")
    assert (request.span.trace_id.hex(), request.span.parent_span_id.hex()) == (TRACE, PARENT)
    assert (request.span.kind, request.span.trace_state) == (Span.SPAN_KIND_SERVER, "vendor=1")
    assert request.span.status.code == Status.STATUS_CODE_UNSET
    assert request.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/classify",
        "url.path": "/classify",
        "url.scheme": "http",
        "client.address": "192.0.2.1",
    }


@pytest.mark.parametrize(
    ("query", "stages"),
    [
        ("", ["read", "decode", "preprocess", "queue", "infer", "rank"]),
        ("?evidence=true", ["read", "decode", "preprocess", "queue", "infer", "rank", "evidence"]),
        ("?evidence=true&format=png", ["read", "decode", "preprocess", "queue", "infer", "evidence"]),
    ],
)
def test_the_stages_of_an_image_lie_one_after_another_in_its_request(
    collector: Collector, client_of: Callable[..., TestClient], digit: bytes, query: str, stages: list[str]
) -> None:
    """Each stage is a span below the request, begins after the end of the stage before, and ends with the request."""
    with client_of() as client:
        client.post(f"/classify{query}", content=digit)

    (request,) = collector.named("POST /classify")
    children = collector.children_of(request)
    assert [child.span.name for child in children] == stages
    times = [time for child in children for time in (child.span.start_time_unix_nano, child.span.end_time_unix_nano)]
    assert times == sorted(times)
    assert request.span.start_time_unix_nano <= times[0]
    assert times[-1] <= request.span.end_time_unix_nano


def test_each_image_of_a_form_has_a_span_of_its_own(
    collector: Collector, client_of: Callable[..., TestClient], digit: bytes
) -> None:
    """The stages of two images in one request lie below two spans. An image that is refused has none."""
    with client_of() as client:
        client.post("/classify/batch", files=form_of(digit, b"no image", digit))

    (request,) = collector.named("POST /classify/batch")
    images = collector.children_of(request)
    assert [image.span.name for image in images] == ["image", "image"]
    for image in images:
        stages = collector.children_of(image)
        assert [stage.span.name for stage in stages] == ["read", "decode", "preprocess", "queue", "infer", "rank"]
        assert all(is_inside(stage, image) for stage in stages)


def is_inside(inner: Received, outer: Received) -> bool:
    return (
        outer.span.start_time_unix_nano <= inner.span.start_time_unix_nano
        and inner.span.end_time_unix_nano <= outer.span.end_time_unix_nano
    )


def test_a_batch_is_linked_once_to_a_request_with_several_of_its_images(
    collector: Collector, client_of: Callable[..., TestClient], digit: bytes
) -> None:
    """Every batch with images of a sampled request is a trace of its own, with one link to this request."""
    with client_of() as client:
        client.post("/classify/batch", files=form_of(digit, digit))

    (request,) = collector.named("POST /classify/batch")
    batches = collector.named("batch")
    assert sum(int(str(batch.attributes["swin.batch.size"])) for batch in batches) == 2
    for batch in batches:
        assert batch.span.trace_id != request.span.trace_id
        assert [(link.trace_id, link.span_id) for link in batch.span.links] == [
            (request.span.trace_id, request.span.span_id)
        ]


def test_a_failed_batch_and_its_request_are_errors(
    collector: Collector, client_of: Callable[..., TestClient], digit: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the engine fails, the span of the batch and the one of the request have the status of an error."""
    with client_of() as client:
        (engine,) = client.app.state.service.backend.engines  # type: ignore[attr-defined]  # (it is the application)
        monkeypatch.setattr(engine, "_session", FailingSession(engine._session, "nan"))  # noqa: SLF001 (to fail a run)
        assert client.post("/classify", content=digit).status_code == 500

    (request,), (batch,) = collector.named("POST /classify"), collector.named("batch")
    assert request.attributes["error.type"] == "500"
    assert {each.span.status.code for each in (request, batch)} == {Status.STATUS_CODE_ERROR}


def test_an_error_of_the_client_is_no_error_of_the_request(
    collector: Collector, client_of: Callable[..., TestClient]
) -> None:
    """A request that is answered with 415 has no `error.type`, as the conventions of OpenTelemetry say."""
    with client_of() as client:
        client.post("/classify", content=b"no image")

    (request,) = collector.named("POST /classify")
    assert request.attributes["http.response.status_code"] == 415
    assert "error.type" not in request.attributes
    assert request.span.status.code == Status.STATUS_CODE_UNSET


def test_paths_and_methods_of_clients_are_in_no_name(
    collector: Collector, client_of: Callable[..., TestClient]
) -> None:
    """A request without a route is named by its method, and an invented method is only an attribute."""
    with client_of() as client:
        client.get("/invented/path")
        client.request("INVENTED", "/health/live")

    first, second = collector.spans
    assert (first.span.name, first.attributes["url.path"]) == ("GET", "/invented/path")
    assert second.span.name.startswith("HTTP")
    assert (second.attributes["http.request.method"], second.attributes["http.request.method_original"]) == (
        "_OTHER",
        "INVENTED",
    )


@pytest.mark.parametrize(
    ("variables", "headers"),
    [
        ({}, UNSAMPLED),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, SAMPLED),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, {}),
    ],
    ids=["by the client", "always off", "by the ratio"],
)
def test_a_request_that_is_not_sampled_has_no_span(
    collector: Collector,
    client_of: Callable[..., TestClient],
    digit: bytes,
    variables: Mapping[str, str],
    headers: Mapping[str, str],
) -> None:
    """Nothing is exported for a request that the client or the sampler leaves out."""
    with client_of(**variables) as client:
        assert client.post("/classify", content=digit, headers=headers).status_code == 200

    assert collector.spans == []


def test_a_sampled_request_without_a_parent_has_its_new_trace_in_the_log(
    collector: Collector, client_of: Callable[..., TestClient]
) -> None:
    """The log lines of a request have the trace ID of its span, and two requests have different ones."""
    with client_of() as client, logged() as lines:
        client.get("/health/live")
        client.get("/health/live")

    traces = [each.span.trace_id.hex() for each in collector.named("GET /health/live")]
    assert [line["trace_id"] for line in lines] == traces
    assert len({*traces}) == 2


@contextmanager
def logged() -> Iterator[list[Mapping[str, object]]]:
    """Yield the fields of the log lines about requests."""
    lines = list[Mapping[str, object]]()
    log, handler = logging.getLogger("swin.request"), logging.Handler()
    handler.emit = lambda record: lines.append(logs._fields(record))  # type: ignore[method-assign]  # (it stands for a stream)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lines
    log.setLevel(logging.NOTSET)
    log.removeHandler(handler)
