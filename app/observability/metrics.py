"""Every metric: its name, its help text, and nothing else. One registry per service, so that tests can open several."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

__all__ = ["CONTENT_TYPE_LATEST", "Counts", "Metrics", "exposition", "merged", "totals"]

STAGES = ("read", "decode", "preprocess", "queue", "infer", "rank", "evidence")
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)

LOOP_BUSY = ("swin_loop_busy_seconds", "CPU time of an event loop.")

BEGINNINGS = ("_created", "start_time_seconds")
"""Names of samples that hold a time, not an amount, end so."""

Counts = Sequence[Metric]
"""What the metrics of one process say at one moment."""


class Metrics:
    """What the service counts. Attributes are named like the metrics, without the prefix `swin_`.

    `loop` is what this process's event loop is for: `http_worker`, or `queue` if HTTP workers are processes of their own.
    """

    def __init__(self, loop: str = "http_worker") -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.loop_busy_seconds = _LoopTime(loop)
        registry.register(self.loop_busy_seconds)
        self.requests = Counter("swin_requests", "Requests answered.", ["route", "code"], registry=registry)
        self.request_seconds = Histogram(
            "swin_request_seconds",
            "Time from the request's head to its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "swin_stage_seconds", "Time one image spent in a stage.", ["stage"], buckets=SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            "swin_batch_size", "Images in a batch, before padding.", buckets=BATCH_SIZES, registry=registry
        )
        self.batch_padding = Counter(
            "swin_batch_padding", "Empty places that batches were padded with to reach a bucket.", registry=registry
        )
        self.batches_failed = Counter("swin_batches_failed", "Batches the engine could not run.", registry=registry)
        self.http_worker_restarts = Counter(
            "swin_http_worker_restarts", "HTTP workers that died and were started again.", registry=registry
        )
        self.engine_restarts = Counter(
            "swin_engine_restarts", "Engines opened and proved again after a failure.", registry=registry
        )
        self.queue_depth = Gauge("swin_queue_depth", "Images that wait for an engine.", registry=registry)
        self.decode_in_progress = Gauge(
            "swin_decode_in_progress", "Images in decoding or waiting for it.", registry=registry
        )
        self.uploaded_bytes = Gauge("swin_uploaded_bytes", "Request bodies held at the moment.", registry=registry)
        self.rejected = Counter("swin_rejected", "Images not classified, by error code.", ["reason"], registry=registry)
        self.cancelled = Counter(
            "swin_cancelled", "Images given up because their caller left, by stage.", ["stage"], registry=registry
        )
        self.decode_busy_seconds = Counter(
            "swin_decode_busy_seconds", "Time the decode threads were busy.", registry=registry
        )
        self.engine_busy_seconds = Counter(
            "swin_engine_busy_seconds", "Time an engine ran batches.", ["engine"], registry=registry
        )
        self.utilization_ratio = Gauge(
            "swin_utilization_ratio", "How busy a part of the service was lately, 0 to 1.", ["part"], registry=registry
        )
        self.ready = Gauge(
            "swin_ready", "1 while the service classifies, 0 while it drains, recovers or is broken.", registry=registry
        )
        self.engine = Info("swin_engine", "Where the network runs.", ["engine"], registry=registry)
        self.model = Info("swin_model", "Which network runs.", registry=registry)
        self._stages = {stage: self.stage_seconds.labels(stage) for stage in STAGES}
        # To find a metric by its labels takes longer than to count.
        self._requests, self._request_seconds = cache(self.requests.labels), cache(self.request_seconds.labels)

    def observe_request(self, route: str, code: int, seconds: float) -> None:
        """Count one request, and the time it took."""
        self._requests(route, code).inc()
        self._request_seconds(route).observe(seconds)

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Count one image's time in each of the `STAGES` it went through."""
        for stage, value in seconds.items():
            self._stages[stage].observe(value)

    def counts(self) -> Counts:
        """What they say now."""
        return list(self.registry.collect())


def exposition(*of_processes: Counts) -> bytes:
    """One text for Prometheus, of `CONTENT_TYPE_LATEST`, of one or several processes that are one service."""
    return generate_latest(_Collected(merged(of_processes)))


def merged(of_processes: Iterable[Counts]) -> Counts:
    """The counts of several processes as if they were one.

    They add up, but for the times at which something began, of which the first counts, and for what is said and not
    counted, which the first process says.
    """
    families: dict[str, Metric] = {}
    samples: dict[str, dict[Any, Sample]] = {}
    for counts in of_processes:
        for family in counts:
            if family.type == "info" and family.name in families:
                continue
            families.setdefault(family.name, family)
            known = samples.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, *sorted(sample.labels.items()))
                known[key] = _together(known[key], sample) if key in known else sample
    return [_with(family, samples[name].values()) for name, family in families.items()]


def totals(counts: Counts) -> Counts:
    """Those that only grow: what remains of a process that has ended."""
    return [family for family in counts if family.type in {"counter", "histogram"}]


def _together(one: Sample, other: Sample) -> Sample:
    add: Callable[[Iterable[float]], float] = min if one.name.endswith(BEGINNINGS) else sum
    return one._replace(value=add((one.value, other.value)))


def _with(family: Metric, samples: Iterable[Sample]) -> Metric:
    metric = Metric(family.name, family.documentation, family.type)
    metric.samples = list(samples)
    return metric


class _LoopTime(Collector):
    """CPU time of the thread that asks, which is that of the event loop."""

    def __init__(self, loop: str) -> None:
        self._loop = loop

    def describe(self) -> list[CounterMetricFamily]:
        """Without a value: it is asked for before there is a loop."""
        return [CounterMetricFamily(*LOOP_BUSY, labels=["loop"])]

    def collect(self) -> list[CounterMetricFamily]:
        """Its value."""
        (family,) = self.describe()
        family.add_metric([self._loop], time.thread_time())
        return [family]


class _Collected(Collector):
    """What has been collected already."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Counts:
        """As it is."""
        return self._counts
