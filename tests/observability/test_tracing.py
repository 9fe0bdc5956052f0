"""Tests of `app/observability/tracing.py` and `otlp.py`: when tracing is on, what is sampled, and how it ends."""

import logging
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

import pytest
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from app.observability import otlp
from app.observability.otlp import OtlpTracer, RateLimit
from app.observability.tracing import NoTracer, Parent, RequestTrace, lay_out, open_tracer
from tests.support.collector import Collector

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
SAMPLED, UNSAMPLED = (Parent(b"f" * 32, b"b" * 16, flags) for flags in (b"01", b"00"))

# Traces of this ID are the first ones that a ratio keeps, because samplers compare its last 8 bytes.
LOW = Parent(b"f" * 16 + b"0" * 16, b"b" * 16, b"00")


@pytest.fixture
def tracer(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpTracer]:
    """A tracer that exports to the collector."""
    for name, value in collector.variables.items():
        monkeypatch.setenv(name, value)
    tracer = OtlpTracer()
    yield tracer
    tracer.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A running collector."""
    with Collector() as collector:
        yield collector


def finish(tracer: OtlpTracer) -> None:
    """Record a request that is over at once."""
    tracer.end(RequestTrace(1, 2, time.perf_counter()), "GET /", {}, failed=False)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SERVICE_NAME": "swin"},
        ENDPOINT | {"OTEL_SDK_DISABLED": "True"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=lambda variables: " ".join(f"{name}={value}" for name, value in variables.items()) or "none",
)
def test_tracing_is_off_unless_a_variable_asks_for_it(
    variables: Mapping[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Without an endpoint for traces, or if a variable turns tracing off, there is no tracer and no warning."""
    assert isinstance(open_tracer(variables), NoTracer)
    assert caplog.records == []


@pytest.mark.parametrize(
    "variables",
    [
        ENDPOINT,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"},
        {"OTEL_TRACES_EXPORTER": "otlp"},
        ENDPOINT | {"OTEL_SDK_DISABLED": "false", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
    ],
    ids=lambda variables: " ".join(f"{name}={value}" for name, value in variables.items()),
)
def test_an_endpoint_or_the_exporter_turns_tracing_on(variables: Mapping[str, str]) -> None:
    """One of the variables of OpenTelemetry for OTLP is enough."""
    tracer = open_tracer(variables)
    tracer.close()

    assert tracer.is_on


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        (
            ENDPOINT
            | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        ),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "console"}, "OTEL_TRACES_EXPORTER"),
    ],
)
def test_what_is_not_supported_is_warned_of(
    variables: Mapping[str, str], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another protocol or exporter leaves tracing off, and a warning names the variable."""
    assert isinstance(open_tracer(variables), NoTracer)
    assert [vars(record)["variable"] for record in caplog.records] == [named]


def test_a_missing_extra_is_warned_of(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a variable asks for tracing and the SDK is not installed, the start goes on with a warning."""
    monkeypatch.delitem(sys.modules, "app.observability.otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)

    assert isinstance(open_tracer(ENDPOINT), NoTracer)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "pip install 'swin-serve[otel]'" in caplog.text


def test_an_invalid_variable_does_not_fail_the_start(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the SDK refuses the value of a variable, tracing is off and the log has the reason."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")

    assert isinstance(open_tracer(ENDPOINT), NoTracer)
    assert "max_queue_size must be a positive integer" in caplog.text


def test_off_means_that_the_sdk_is_not_imported() -> None:
    """Without variables, an application is created without OpenTelemetry's SDK. FastAPI imports only its interface."""
    code = "import sys, app.main; app.main.create_app(); print([n for n in sys.modules if 'opentelemetry.sdk' in n])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 (ours)

    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("sampler", "argument", "parent", "expected"),
    [
        ("parentbased_always_on", "", None, True),
        ("parentbased_always_on", "", UNSAMPLED, False),
        ("parentbased_always_off", "", None, False),
        ("parentbased_always_off", "", SAMPLED, True),
        ("parentbased_traceidratio", "0", None, False),
        ("parentbased_traceidratio", "0", SAMPLED, True),
        ("parentbased_traceidratio", "1", UNSAMPLED, False),
        ("traceidratio", "0.5", LOW, True),
        ("traceidratio", "0.5", SAMPLED, False),
        ("always_on", "", UNSAMPLED, True),
        ("always_off", "", SAMPLED, False),
    ],
)
def test_the_sampler_decides(
    sampler: str, argument: str, parent: Parent | None, *, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sampler follows the flag of the parent, or the trace ID, as the specification of OpenTelemetry says."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    tracer = OtlpTracer()
    trace = tracer.begin(parent, [], 0.0)
    tracer.close()

    assert (trace is not None) == expected


def test_a_ratio_keeps_the_same_traces_as_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,000 traces, the tracer samples those that the sampler of the SDK samples, so that services agree."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.3")
    tracer, sampler, chance = OtlpTracer(), TraceIdRatioBased(0.3), random.Random(0)
    ids = [chance.getrandbits(128) for _ in range(1000)]
    parents = [Parent(f"{trace_id:032x}".encode(), b"b" * 16, b"00") for trace_id in ids]
    kept = [tracer.begin(parent, [], 0.0) is not None for parent in parents]
    tracer.close()

    assert kept == [sampler.should_sample(None, trace_id, "").decision.is_sampled() for trace_id in ids]  # type: ignore[no-untyped-call]  # (of the SDK)
    assert 250 < sum(kept) < 350


def test_stages_are_laid_out_from_the_end() -> None:
    """The last stage ends with the image, each one ends where the next begins, and `read` begins with the request."""
    seconds = {"decode": 1.0, "queue": 4.0, "infer": 8.0, "read": 2.0}

    assert [*lay_out(100.0, 120.0, seconds)] == [
        ("infer", 112.0, 120.0),
        ("queue", 108.0, 112.0),
        ("decode", 107.0, 108.0),
        ("read", 100.0, 102.0),
    ]


def test_spans_name_the_service(collector: Collector, tracer: OtlpTracer) -> None:
    """Without a variable, spans are of the service `swin-serve`, with its version and an ID of the process."""
    finish(tracer)
    tracer.close()

    (received,) = collector.spans
    assert received.resource["service.name"] == "swin-serve"
    assert {"service.version", "service.instance.id"} <= received.resource.keys()


def test_variables_replace_the_name_of_the_service(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over what swin-serve says."""
    variables = {"OTEL_SERVICE_NAME": "digits", "OTEL_RESOURCE_ATTRIBUTES": "service.version=7,team=vision"}
    for name, value in (collector.variables | variables).items():
        monkeypatch.setenv(name, value)
    tracer = OtlpTracer()
    finish(tracer)
    tracer.close()

    (received,) = collector.spans
    own = {name: received.resource[name] for name in ("service.name", "service.version", "team")}
    assert own == {"service.name": "digits", "service.version": "7", "team": "vision"}


def test_a_collector_that_does_not_answer_does_not_hold_the_end(
    collector: Collector, tracer: OtlpTracer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`close` returns while the collector holds the export, and the log has a warning."""
    monkeypatch.setattr(otlp, "FLUSH_SECONDS", 0.01)
    collector.opened.clear()
    finish(tracer)
    tracer.close()

    assert collector.spans == []
    assert [record.message for record in caplog.records] == ["last spans not exported"]


def test_a_repeated_message_is_logged_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its arguments are, a message passes again only after `QUIET_SECONDS`. Other messages pass."""
    now, limit = [1000.0], RateLimit()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def passes(message: str, argument: int) -> bool:
        return bool(limit.filter(logging.LogRecord("x", logging.ERROR, "", 0, message, (argument,), None)))

    assert [passes("down %s", 1), passes("down %s", 2), passes("full %s", 1)] == [True, False, True]
    now[0] += otlp.QUIET_SECONDS
    assert passes("down %s", 3)
