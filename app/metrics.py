"""Every metric: its name, its help text, and nothing else. One registry per service, so that tests can open several."""

from collections.abc import Mapping
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

STAGES = ("read", "decode", "preprocess", "queue", "infer", "rank", "evidence")
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """What the service counts. Attributes are named like the metrics, without the prefix `swin_`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
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
        self.engines_renewed = Counter(
            "swin_engines_renewed", "Engines opened and proved again after a failure.", registry=registry
        )
        self.queue_depth = Gauge("swin_queue_depth", "Images that wait for an engine.", registry=registry)
        self.decode_depth = Gauge("swin_decode_depth", "Images in decoding or waiting for it.", registry=registry)
        self.uploaded_bytes = Gauge("swin_uploaded_bytes", "Request bodies held at the moment.", registry=registry)
        self.rejected = Counter("swin_rejected", "Images not classified, by error code.", ["reason"], registry=registry)
        self.abandoned = Counter(
            "swin_abandoned", "Images given up because their caller left, by stage.", ["stage"], registry=registry
        )
        self.decode_busy_seconds = Counter(
            "swin_decode_busy_seconds", "Time spent decoding and preprocessing, over all threads.", registry=registry
        )
        self.engine_busy_seconds = Counter(
            "swin_engine_busy_seconds", "Time an engine ran batches.", ["engine"], registry=registry
        )
        self.ready = Gauge(
            "swin_ready", "1 while the service classifies, 0 while it drains, recovers or is broken.", registry=registry
        )
        self.engine = Info("swin_engine", "Where the network runs.", registry=registry)
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
        self.decode_busy_seconds.inc(seconds["decode"] + seconds["preprocess"])

    def render(self) -> tuple[bytes, str]:
        """The exposition for Prometheus, and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
