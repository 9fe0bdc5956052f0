"""Traces: which requests are sampled, and what is remembered of a sampled request until its response.

Knows no HTTP. `otlp.py` has the tracer that builds and exports spans. It is imported only if tracing is on, because it
imports OpenTelemetry.
"""

import logging
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from app.observability.metrics import STAGES

log = logging.getLogger("swin.tracing")

# Header fields, or other metadata, of a request. Names are in lower case.
Headers = Iterable[tuple[bytes, bytes]]
Attributes = Mapping[str, str | int]

# The header field of W3C Trace Context, section 3.2. A value of version 00 has 55 characters, later
# versions can add more after a dash. Version ff and IDs of zeros are not valid.
TRACEPARENT = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)

# The sizes of both IDs in a link.
TRACE_ID_BYTES, SPAN_ID_BYTES = 16, 8

# The stage that comes before all others of an image. In a form, it is the average of the images.
READ = STAGES[0]

# The variables that ask for tracing, and the only protocol of the extra `otel`.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
EXPORTER, PROTOCOL = "otlp", "http/protobuf"


class Parent(NamedTuple):
    """The span of a client that a request belongs to, in hexadecimal digits."""

    trace_id: bytes
    span_id: bytes
    flags: bytes


@dataclass(slots=True, eq=False)
class RequestTrace:
    """A sampled request: the IDs of its span, and the seconds of its images. Times are of `time.perf_counter`."""

    trace_id: int
    span_id: int
    started_at: float
    parent: Parent | None = None
    tracestate: Sequence[str] = ()
    images: list[tuple[float, Mapping[str, float]]] = field(default_factory=list)  # when it was done, and its stages

    @property
    def link(self) -> bytes:
        """The IDs in 24 bytes. The report of a batch has the links of its images."""
        return self.trace_id.to_bytes(TRACE_ID_BYTES) + self.span_id.to_bytes(SPAN_ID_BYTES)


# The trace of the request that the current task serves. None: it is not sampled.
current_trace: ContextVar[RequestTrace | None] = ContextVar("current_trace", default=None)


class Tracer(Protocol):
    """Decides which requests are sampled, and exports their spans."""

    @property
    def is_on(self) -> bool:
        """True if requests can be sampled."""

    def begin(self, parent: Parent | None, headers: Headers, started_at: float) -> RequestTrace | None:
        """Return the trace of a request that begins, or None if the request is not sampled."""

    def end(self, trace: RequestTrace, name: str, attributes: Attributes, *, failed: bool) -> None:
        """Record a request that ends now, with its images. Call this after the response has been sent."""

    def add_batch(
        self, links: Collection[bytes], ended_at: float, seconds: float, attributes: Attributes, *, failed: bool
    ) -> None:
        """Record a batch, linked to the requests of its images. `ended_at` is a time of `time.perf_counter`."""

    def close(self) -> None:
        """Export what is left, within a few seconds."""


class NoTracer:
    """The tracer of a process in which tracing is off. Samples no request."""

    is_on = False

    def begin(self, parent: Parent | None, headers: Headers, started_at: float) -> None: ...

    def end(self, trace: RequestTrace, name: str, attributes: Attributes, *, failed: bool) -> None: ...

    def add_batch(
        self, links: Collection[bytes], ended_at: float, seconds: float, attributes: Attributes, *, failed: bool
    ) -> None: ...

    def close(self) -> None: ...


def open_tracer(variables: Mapping[str, str] = os.environ) -> Tracer:
    """Return the tracer that the standard variables of OpenTelemetry ask for.

    Tracing never fails a start: if the variables ask for tracing and it is not possible, the log has a warning.
    """
    if not _is_requested(variables):
        return NoTracer()
    try:
        from app.observability.otlp import OtlpTracer  # noqa: PLC0415 (imports the extra, which may be missing)
    except ModuleNotFoundError as error:
        log.warning(
            "tracing is off: the extra otel is not installed; run pip install 'swin-serve[otel]'",
            extra={"missing": error.name},
        )
        return NoTracer()
    try:
        return OtlpTracer()
    except Exception:
        log.exception("tracing is off: a variable of OpenTelemetry is not valid")
        return NoTracer()


def parent_of(headers: Headers) -> Parent | None:
    """Return what the only `traceparent` field says, or None if the field is missing, repeated or not valid."""
    given = [value for name, value in headers if name == b"traceparent"]
    match = TRACEPARENT.fullmatch(given[0]) if len(given) == 1 else None
    return Parent(*match.groups()) if match else None


def log_fields(parent: Parent | None, trace: RequestTrace | None) -> dict[str, str]:
    """Return the trace ID of the client, or the one of a request that is sampled without a client's."""
    if parent is not None:
        return {"trace_id": parent.trace_id.decode()}
    return {} if trace is None else {"trace_id": f"{trace.trace_id:032x}"}


def add_stages(seconds: Mapping[str, float]) -> None:
    """Add the stages of an image that is done now to the trace of the current request, if the request is sampled."""
    trace = current_trace.get()
    if trace is not None:
        trace.images.append((time.perf_counter(), dict(seconds)))


def lay_out(started_at: float, done_at: float, seconds: Mapping[str, float]) -> Iterator[tuple[str, float, float]]:
    """Yield the name, start and end of each stage of an image, the last stage first.

    The service measures durations, so the starts follow from them. The last stage ends when the image is done, and each
    stage before it ends where the next one begins. Only `read` begins with the request. The time after it that belongs
    to no stage is mostly the wait for a decode thread. Stages do not overlap, because they were measured one after
    another.
    """
    for stage in reversed(STAGES):
        if stage in seconds and stage != READ:
            yield stage, done_at - seconds[stage], done_at
            done_at -= seconds[stage]
    if READ in seconds:
        yield READ, started_at, min(started_at + seconds[READ], done_at)


def _is_requested(variables: Mapping[str, str]) -> bool:
    """Return whether the variables ask for a trace exporter that swin-serve has. An empty variable counts as unset."""
    if variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    default = EXPORTER if any(variables.get(name) for name in ENDPOINTS) else "none"
    chosen = variables.get("OTEL_TRACES_EXPORTER") or default
    exporters = {name.strip().lower() for name in chosen.split(",")}
    if unknown := exporters - {EXPORTER, "none", ""}:
        _warn_unsupported("OTEL_TRACES_EXPORTER", ",".join(sorted(unknown)), EXPORTER)
    protocols = [name for name in PROTOCOLS if variables.get(name)]
    if EXPORTER in exporters and protocols and variables[protocols[0]].strip().lower() != PROTOCOL:
        _warn_unsupported(protocols[0], variables[protocols[0]], PROTOCOL)
        return False
    return EXPORTER in exporters


def _warn_unsupported(variable: str, value: str, supported: str) -> None:
    log.warning("tracing has no such option", extra={"variable": variable, "value": value, "supported": supported})
