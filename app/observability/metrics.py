"""Every metric of swin-serve: its name, its help text and its labels.

A service has a registry of its own, so that a test can open several services in one process.
"""

import time
from collections.abc import Mapping, Sequence
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from app.observability.batch_times import BatchTimes

STAGES = ("read", "decode", "preprocess", "queue", "infer", "rank", "evidence")
# Upper bounds of the buckets of durations, in seconds.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)

LOOP_BUSY = ("swin_loop_busy_seconds", "CPU time of an event loop.")

# The metrics of one process at one moment.
Counts = Sequence[Metric]


class Metrics:
    """All metrics of one process. Attributes are named like metrics, without the prefix `swin_`.

    `loop` is the work of this process's event loop: `http_worker` if it speaks HTTP, `batcher` if
    it serves HTTP workers that are processes of their own.
    """

    def __init__(self, loop: str = "http_worker") -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.loop_busy_seconds = _LoopTime(loop)
        registry.register(self.loop_busy_seconds)
        self.requests = Counter("swin_requests", "Requests answered.", ["route", "code"], registry=registry)
        self.request_seconds = Histogram(
            "swin_request_seconds",
            "Time from a request's header section to its response.",
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
            "swin_batch_padding", "Padding that was added to batches to reach a bucket, in images.", registry=registry
        )
        self.batches_failed = Counter("swin_batches_failed", "Batches the engine could not run.", registry=registry)
        self.http_worker_restarts = Counter(
            "swin_http_worker_restarts", "HTTP workers that died and were restarted.", registry=registry
        )
        self.engine_restarts = Counter(
            "swin_engine_restarts", "Engines that were replaced after a failure.", registry=registry
        )
        self.queue_depth = Gauge("swin_queue_depth", "Images that wait for an engine.", registry=registry)
        self.decode_in_progress = Gauge(
            "swin_decode_in_progress", "Images and documents in decoding or waiting for it.", registry=registry
        )
        self.uploaded_bytes = Gauge(
            "swin_uploaded_bytes", "Bytes of request bodies that are held at the moment.", registry=registry
        )
        self.rejected = Counter("swin_rejected", "Images not classified, by error code.", ["reason"], registry=registry)
        self.cancelled = Counter(
            "swin_cancelled",
            "Images cancelled because their client disconnected, by stage.",
            ["stage"],
            registry=registry,
        )
        self.decode_busy_seconds = Counter(
            "swin_decode_busy_seconds", "Time the decode threads were busy.", registry=registry
        )
        self.engine_busy_seconds = Counter(
            "swin_engine_busy_seconds", "Time an engine ran batches.", ["engine"], registry=registry
        )
        self.utilization_ratio = Gauge(
            "swin_utilization_ratio",
            "How busy a component was in the last ten seconds, 0 to 1.",
            ["component"],
            registry=registry,
        )
        self.ready = Gauge(
            "swin_ready", "1 while the service classifies, 0 while it drains, recovers or is broken.", registry=registry
        )
        self.engine = Info("swin_engine", "The device on which an engine runs.", ["engine"], registry=registry)
        self.model = Info("swin_model", "The network that is served.", registry=registry)
        self.batch_times = BatchTimes()
        self._stages = {stage: self.stage_seconds.labels(stage) for stage in STAGES}
        # Looking up a metric by its labels takes longer than counting.
        self._requests, self._request_seconds = cache(self.requests.labels), cache(self.request_seconds.labels)

    def observe_request(self, route: str, code: int, seconds: float) -> None:
        """Count one request and the seconds that it took."""
        self._requests(route, code).inc()
        self._request_seconds(route).observe(seconds)

    def count_stages(self, seconds: Mapping[str, float]) -> None:
        """Count the seconds of one image in each of the `STAGES` that it went through."""
        for stage, value in seconds.items():
            self._stages[stage].observe(value)

    def counts(self) -> Counts:
        """Return the values at this moment."""
        return list(self.registry.collect())


class _LoopTime(Collector):
    """The CPU time of the calling thread, which is the event loop's."""

    def __init__(self, loop: str) -> None:
        self._loop = loop

    def describe(self) -> list[CounterMetricFamily]:
        # Without a value: the registry calls this before there is an event loop.
        return [CounterMetricFamily(*LOOP_BUSY, labels=["loop"])]

    def collect(self) -> list[CounterMetricFamily]:
        (family,) = self.describe()
        family.add_metric([self._loop], time.thread_time())
        return [family]
