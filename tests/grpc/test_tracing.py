"""Tests of the spans of calls: what a collector receives from `app/grpc/calls.py`."""

import json
import logging
from collections.abc import Iterator

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from app.bundle.load import Bundle
from app.observability import logging as logs
from app.settings import Settings
from tests.support.collector import Collector
from tests.support.engines import FailingSession
from tests.support.rpc import RpcClient, image_request, route, rpc_service
from tests.support.served import Served

pytestmark = pytest.mark.anyio

SETTINGS = Settings(device="cpu", threads=1)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = ([("traceparent", f"00-{TRACE}-{PARENT}-{flags}")] for flags in ("01", "00"))
INFER = "inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector to which services export. The end of a service exports all spans."""
    with Collector() as collector:
        for name, value in collector.variables.items():
            monkeypatch.setenv(name, value)
        yield collector


@pytest.fixture
def digit(demo: Bundle) -> bytes:
    """A PNG file that the service classifies."""
    return (demo.folder / "golden/two.png").read_bytes()


async def test_a_call_is_a_span_below_that_of_its_client(collector: Collector, digit: bytes) -> None:
    """The span of a call has the trace, the parent and the state of its client, and the attributes of gRPC."""
    metadata = [*SAMPLED, ("tracestate", "vendor=1")]
    async with rpc_service(SETTINGS) as (_, client):
        await client.call("ModelInfer", image_request(digit), metadata=metadata)

    (call,) = collector.named(INFER)
    assert (call.span.trace_id.hex(), call.span.parent_span_id.hex()) == (TRACE, PARENT)
    assert (call.span.kind, call.span.trace_state) == (Span.SPAN_KIND_SERVER, "vendor=1")
    assert call.span.status.code == Status.STATUS_CODE_UNSET
    assert call.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
        "client.address": "127.0.0.1",
    }


async def test_the_stages_of_an_image_lie_in_its_call(collector: Collector, digit: bytes) -> None:
    """Each stage is a span below the call, and begins after the end of the stage before."""
    async with rpc_service(SETTINGS) as (_, client):
        await client.call("ModelInfer", image_request(digit))

    (call,) = collector.named(INFER)
    children = collector.children_of(call)
    assert [child.span.name for child in children] == ["read", "decode", "preprocess", "queue", "infer"]
    times = [time for child in children for time in (child.span.start_time_unix_nano, child.span.end_time_unix_nano)]
    times = [call.span.start_time_unix_nano, *times, call.span.end_time_unix_nano]
    assert times == sorted(times)


async def test_a_batch_is_linked_to_the_call(collector: Collector, digit: bytes) -> None:
    """The span of the batch that ran the image has a link to the span of its call."""
    async with rpc_service(SETTINGS) as (_, client):
        await client.call("ModelInfer", image_request(digit))

    (call,), (batch,) = collector.named(INFER), collector.named("batch")
    assert [(link.trace_id, link.span_id) for link in batch.span.links] == [(call.span.trace_id, call.span.span_id)]


async def test_a_failed_call_is_an_error(collector: Collector, digit: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the engine fails, the span of the call has the status of an error, and its `error.type` the name."""
    async with rpc_service(SETTINGS) as (app, client):
        (engine,) = app.state.service.backend.engines
        monkeypatch.setattr(engine, "_session", FailingSession(engine._session, "nan"))  # noqa: SLF001 (to fail a run)
        assert await status(client, "ModelInfer", image_request(digit)) is StatusCode.INTERNAL

    (call,) = collector.named(INFER)
    assert call.span.status.code == Status.STATUS_CODE_ERROR
    assert (call.attributes["rpc.grpc.status_code"], call.attributes["error.type"]) == (13, "INTERNAL")


async def test_an_error_of_the_client_is_no_error_of_the_call(collector: Collector) -> None:
    """A call with an image that cannot be read has no `error.type`."""
    async with rpc_service(SETTINGS) as (_, client):
        assert await status(client, "ModelInfer", image_request(b"text")) is StatusCode.INVALID_ARGUMENT

    (call,) = collector.named(INFER)
    assert call.attributes["rpc.grpc.status_code"] == 3
    assert "error.type" not in call.attributes
    assert call.span.status.code == Status.STATUS_CODE_UNSET


async def status(client: RpcClient, name: str, request: object) -> StatusCode:
    """Return the status of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.call(name, request)
    code: StatusCode = error.value.code()
    return code


async def test_an_unknown_rpc_has_no_name_of_the_client(collector: Collector) -> None:
    """Names of clients are neither the name of a span nor an attribute, because they can be without number."""
    async with rpc_service(SETTINGS) as (_, client):
        with pytest.raises(grpc.aio.AioRpcError):
            await client.channel.unary_unary(route("Invented"))(b"")

    (call,) = collector.spans
    assert (call.span.name, call.attributes["rpc.method"]) == ("grpc", "_OTHER")
    assert "rpc.service" not in call.attributes


async def test_a_stream_has_no_span(collector: Collector) -> None:
    """A stream of `Watch`, which lasts for hours, is not traced."""
    async with rpc_service(SETTINGS) as (_, client):
        watch = client.channel.unary_stream("/grpc.health.v1.Health/Watch", None, HealthCheckResponse.FromString)
        await watch(b"", metadata=SAMPLED).read()

    assert collector.spans == []


async def test_a_call_that_is_not_sampled_has_no_span(collector: Collector, digit: bytes) -> None:
    """Nothing is exported for a call that its client leaves out."""
    async with rpc_service(SETTINGS) as (_, client):
        await client.call("ModelInfer", image_request(digit), metadata=UNSAMPLED)

    assert collector.spans == []


async def test_a_sampled_call_has_its_new_trace_in_the_log(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """The log line of a call without a client's trace has the trace ID of its span."""
    caplog.handler.setFormatter(logs.JsonLine())
    async with rpc_service(SETTINGS) as (_, client):
        with caplog.at_level(logging.INFO, "swin.request"):
            await client.call("ServerLive")

    (call,), (line,) = collector.spans, caplog.text.splitlines()
    assert json.loads(line)["trace_id"] == call.span.trace_id.hex()


async def test_every_process_traces_calls(collector: Collector, http_workers: str, digit: bytes) -> None:
    """A service exports the span of a call, whether it has HTTP workers or not, and links its batch."""
    served = Served("--http-workers", http_workers, "--grpc-port", "0")
    try:
        async with grpc.aio.insecure_channel(served.grpc_address) as channel:
            await RpcClient(channel).call("ModelInfer", image_request(digit))
        served.process.terminate()
        served.process.wait()
    finally:
        served.stop()

    (call,), (batch,) = collector.named(INFER), collector.named("batch")
    assert [link.span_id for link in batch.span.links] == [call.span.span_id]
