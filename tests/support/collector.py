"""A receiver of OpenTelemetry's OTLP over HTTP, on this machine."""

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.waiting import HANG_SECONDS


class Received(NamedTuple):
    """A span that was exported, and the process that made it."""

    span: Span
    attributes: Mapping[str, object]
    resource: Mapping[str, object]


class Collector:
    """A collector that keeps the spans it receives, as a context manager.

    A test reads `spans` after the end of the service, which exports the last spans.
    """

    def __init__(self) -> None:
        self.spans = list[Received]()
        self.opened, self.entered = threading.Event(), threading.Event()
        self.opened.set()  # a test that clears it holds each export
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                outer.entered.set()
                outer.opened.wait(HANG_SECONDS)
                outer.receive(ExportTraceServiceRequest.FromString(content))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def variables(self) -> dict[str, str]:
        """The variables that let a service export to this collector, without a proxy."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "NO_PROXY": "127.0.0.1",
        }

    def receive(self, request: ExportTraceServiceRequest) -> None:
        """Keep the spans of an export."""
        self.spans += [
            Received(span, _values(span.attributes), _values(each.resource.attributes))
            for each in request.resource_spans
            for scope in each.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> list[Received]:
        """Return the spans of this name."""
        return [each for each in self.spans if each.span.name == name]

    def children_of(self, parent: Received) -> list[Received]:
        """Return the spans below a span, in the order of their starts."""
        children = [each for each in self.spans if each.span.parent_span_id == parent.span.span_id]
        return sorted(children, key=lambda each: each.span.start_time_unix_nano)


def _values(attributes: "list[KeyValue]") -> dict[str, object]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: AnyValue) -> object:
    return getattr(value, value.WhichOneof("value") or "string_value")
