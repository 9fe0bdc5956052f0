"""The tracer that exports spans with OpenTelemetry, by OTLP over HTTP.

The only module that imports OpenTelemetry. Only `open_tracer` imports it, and only if tracing is on.
"""

import importlib.metadata
import logging
import math
import random
import threading
import time
from collections.abc import Collection, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from app.observability.tracing import TRACE_ID_BYTES, Attributes, Headers, Parent, RequestTrace, lay_out

log = logging.getLogger("swin.tracing")

NAME = "swin-serve"

# Seconds that the last spans get to be exported when a process ends. An HTTP worker has EXIT_GRACE_SECONDS of the
# supervisor for all of its end.
FLUSH_SECONDS = 2

# Seconds for which a message of the exporter is not logged again.
QUIET_SECONDS = 60

UNSAMPLED, SAMPLED = TraceFlags(TraceFlags.DEFAULT), TraceFlags(TraceFlags.SAMPLED)

# The part of a trace ID that samplers with a ratio compare.
LAST_8_BYTES = 2**64 - 1

UNSET, FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)


class OtlpTracer:
    """Samples requests and exports their spans, as the standard variables of OpenTelemetry say.

    A span is built after its end, as a `ReadableSpan`. With `start_span` and `end` of the SDK, a span would get another
    ID than the batcher has, it would be sampled again, and it would take six to nine times as long.

    Raises:
        ValueError: a variable has an invalid value.
    """

    is_on = True

    def __init__(self) -> None:
        version = importlib.metadata.version(NAME)
        own = Resource({SERVICE_NAME: NAME, SERVICE_VERSION: version})
        # `create` adds the SDK and an ID of this process. What the variables say comes last, so that it wins.
        self._resource = Resource.create().merge(own).merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope(NAME, version)
        sampler = TracerProvider(resource=self._resource, shutdown_on_exit=False).sampler
        self._bound_of_roots = _bound(sampler, None)
        parents = [_context(1, 1, flags=flags, is_remote=True) for flags in (UNSAMPLED, SAMPLED)]
        self._bounds_by_flag = [_bound(sampler, parent) for parent in parents]
        logging.getLogger(trace_exporter.__name__).addFilter(QUIET)
        self._processor = BatchSpanProcessor(trace_exporter.OTLPSpanExporter())  # starts the thread that exports

    def begin(self, parent: Parent | None, headers: Headers, started_at: float) -> RequestTrace | None:
        if parent is None:
            trace_id, bound = random.getrandbits(128), self._bound_of_roots
        else:
            trace_id, bound = int(parent.trace_id, 16), self._bounds_by_flag[int(parent.flags, 16) & SAMPLED]
        if trace_id & LAST_8_BYTES >= bound:
            return None
        states = [value.decode("latin-1") for name, value in headers if name == b"tracestate"] if parent else []
        return RequestTrace(trace_id, _new_span_id(), started_at, parent, states)

    def end(self, trace: RequestTrace, name: str, attributes: Attributes, *, failed: bool) -> None:
        ended_at, clock = time.perf_counter(), _Clock()
        state = TraceState.from_header([*trace.tracestate])
        span = _context(trace.trace_id, trace.span_id, state)
        for done_at, seconds in trace.images:
            stages = [*lay_out(trace.started_at, done_at, seconds)]
            parent = span
            if len(trace.images) > 1:  # the stages of several images overlap, so that each image has a span of its own
                parent = _context(trace.trace_id, _new_span_id(), state)
                begun_at = min(begin for _, begin, _ in stages)
                self._export("image", parent, clock.times(begun_at, done_at), parent=span)
            for stage, *times in stages:
                child = _context(trace.trace_id, _new_span_id(), state)
                self._export(stage, child, clock.times(*times), parent=parent)
        remote = trace.parent and _context(trace.trace_id, int(trace.parent.span_id, 16), state, is_remote=True)
        self._export(
            name,
            span,
            clock.times(trace.started_at, ended_at),
            parent=remote,
            kind=SpanKind.SERVER,
            attributes=attributes,
            status=FAILED if failed else UNSET,
        )

    def add_batch(
        self, links: Collection[bytes], ended_at: float, seconds: float, attributes: Attributes, *, failed: bool
    ) -> None:
        self._export(
            "batch",
            _context(random.getrandbits(128), _new_span_id()),
            _Clock().times(ended_at - seconds, ended_at),
            attributes=attributes,
            links=[_link(each) for each in dict.fromkeys(links)],  # several images of a request can be in one batch
            status=FAILED if failed else UNSET,
        )

    def close(self) -> None:
        # `shutdown` waits for up to 30 s, which cannot be set.
        flush = threading.Thread(target=self._processor.shutdown, name="flush-spans", daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)
        if flush.is_alive():
            log.warning("last spans not exported", extra={"timeout_s": FLUSH_SECONDS})

    def _export(
        self,
        name: str,
        context: SpanContext,
        times: tuple[int, int],
        *,
        parent: SpanContext | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        links: Sequence[Link] = (),
        status: Status = UNSET,
    ) -> None:
        started_at, ended_at = times
        span = ReadableSpan(
            name,
            context,
            parent,
            self._resource,
            attributes=attributes,
            links=links,
            kind=kind,
            status=status,
            start_time=started_at,
            end_time=ended_at,
            instrumentation_scope=self._scope,
        )
        self._processor.on_end(span)


class RateLimit(logging.Filter):
    """A filter that lets each message pass once in `QUIET_SECONDS`, whatever its arguments are.

    While the collector is down, the exporter logs several lines for each export.
    """

    def __init__(self) -> None:
        super().__init__()
        self._passed_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        message, now = str(record.msg), time.monotonic()
        if now < self._passed_at.get(message, -math.inf) + QUIET_SECONDS:
            return False
        self._passed_at[message] = now
        return True


class _Clock:
    """The wall clock at times of `time.perf_counter`, as one reading of both says."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - _nanoseconds(time.perf_counter())

    def times(self, started_at: float, ended_at: float) -> tuple[int, int]:
        """Return both times in nanoseconds since 1970."""
        return self._offset + _nanoseconds(started_at), self._offset + _nanoseconds(ended_at)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _context(
    trace_id: int,
    span_id: int,
    state: TraceState | None = None,
    *,
    flags: TraceFlags = SAMPLED,
    is_remote: bool = False,
) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote, flags, state)


def _new_span_id() -> int:
    return random.getrandbits(64)


def _link(link: bytes) -> Link:
    # Remote: the request may be one of an HTTP worker.
    trace_id, span_id = (int.from_bytes(part) for part in (link[:TRACE_ID_BYTES], link[TRACE_ID_BYTES:]))
    return Link(_context(trace_id, span_id, is_remote=True))


def _bound(sampler: Sampler, parent: SpanContext | None) -> int:
    """Return how many values of the last 8 bytes of a trace ID the sampler keeps, which are the lowest ones.

    The samplers of the SDK keep all, none or a ratio, by the flag of the parent. In a request, asking one takes 36 µs,
    and comparing with its bound 2 µs. A sampler of another package that decides by something else does not work here.
    """
    context = set_span_in_context(NonRecordingSpan(parent), Context()) if parent else Context()
    low, high = 0, LAST_8_BYTES + 1
    while low < high:
        middle = (low + high) // 2
        if sampler.should_sample(context, middle, "").decision is Decision.RECORD_AND_SAMPLE:
            low = middle + 1
        else:
            high = middle
    return low


# On the logger of the exporter once, however many tracers a process opens.
QUIET = RateLimit()
