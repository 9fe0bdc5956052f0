"""Tests of traces of a service process, with and without HTTP workers: batches, several processes, a lost collector."""

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from app.bundle.load import Bundle
from benchmarks.load.served import START_SECONDS
from tests.chaos.broken_engine import VARIABLE, inject
from tests.support.collector import Collector
from tests.support.served import Served
from tests.support.waiting import until

# The header field of a client that does not sample its trace.
UNSAMPLED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A running collector."""
    with Collector() as collector:
        yield collector


@pytest.fixture
def digit(demo: Bundle) -> bytes:
    """A PNG file that the service classifies."""
    return (demo.folder / "golden/two.png").read_bytes()


def end(served: Served) -> int:
    """Let the service drain, which exports its last spans. Return its exit code."""
    served.process.send_signal(signal.SIGTERM)
    code = served.process.wait(START_SECONDS)
    served.stop()
    return code


def test_a_batch_is_linked_to_the_requests_of_its_images(
    collector: Collector, digit: bytes, http_workers: str, tmp_path: Path
) -> None:
    """Two requests whose images run in one batch are two traces, and the batch is a third one with a link to each."""
    fault, pipe = tmp_path / "fault", tmp_path / "pipe"
    environment = {VARIABLE: str(fault), **collector.variables}
    served = Served("--http-workers", http_workers, module="tests.chaos.broken_engine", **environment)
    os.mkfifo(pipe)
    inject(f"hold {pipe}", fault)
    form = [("files", digit)] * 4
    try:
        with ThreadPoolExecutor(3) as callers:
            callers.submit(httpx.post, f"{served.url}/classify/batch", files=form, headers=UNSAMPLED)
            until(lambda: not fault.exists())  # the engine is held
            calls = [callers.submit(httpx.post, f"{served.url}/classify", content=digit) for _ in range(2)]
            until(lambda: "\nswin_queue_depth 2.0\n" in httpx.get(f"{served.url}/metrics").text)
            pipe.open("w", encoding="ascii").close()
            assert [call.result().status_code for call in calls] == [200, 200]
    finally:
        end(served)

    requests, (batch,) = collector.named("POST /classify"), collector.named("batch")
    expected = {(request.span.trace_id, request.span.span_id) for request in requests}
    assert {(link.trace_id, link.span_id) for link in batch.span.links} == expected
    assert len({*(request.span.trace_id for request in requests), batch.span.trace_id}) == 3
    assert batch.attributes == {
        "swin.batch.size": 2,
        "swin.batch.padding": 0,
        "swin.engine.index": 0,
        "swin.engine.device": "cpu",
    }
    # The inference of each image takes the time of its batch.
    (infer, *_) = [child for child in collector.children_of(requests[0]) if child.span.name == "infer"]
    assert duration(infer.span) == pytest.approx(duration(batch.span), abs=1000)  # nanoseconds of rounding


def duration(span: Span) -> int:
    return span.end_time_unix_nano - span.start_time_unix_nano


def test_each_process_has_an_id_of_its_own(collector: Collector, digit: bytes, http_workers: str) -> None:
    """The span of a request names the process that served it, and the span of its batch the one with the engine."""
    served = Served("--http-workers", http_workers, **collector.variables)
    try:
        httpx.post(f"{served.url}/classify", content=digit)
    finally:
        end(served)

    processes = {str(each.resource["service.instance.id"]) for each in collector.spans}
    assert {each.resource["service.name"] for each in collector.spans} == {"swin-serve"}
    assert len(processes) == (2 if int(http_workers) else 1)


def test_without_a_collector_requests_are_answered_and_the_service_ends(digit: bytes, http_workers: str) -> None:
    """If nothing listens at the endpoint, requests succeed and SIGTERM ends the service with 0."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        endpoint = f"http://127.0.0.1:{reserved.getsockname()[1]}"
    served = Served("--http-workers", http_workers, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, NO_PROXY="127.0.0.1")
    try:
        codes = [httpx.post(f"{served.url}/classify", content=digit).status_code for _ in range(8)]
    finally:
        code = end(served)

    assert codes == [200] * 8
    assert code == 0


def test_a_service_warns_once_that_it_cannot_trace(http_workers: str) -> None:
    """HTTP workers do not repeat the warning of the engine process."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    served = Served("--http-workers", http_workers, **variables)
    served.stop()

    events = [*served.starting, *served.log.queue]
    assert [event["logger"] for event in events].count("swin.tracing") == 1
