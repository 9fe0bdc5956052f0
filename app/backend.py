"""The engines and their batcher in this process, with their metrics. Knows neither decoding nor HTTP."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

from app.batching.batcher import Batcher, BatchReport
from app.batching.engine_worker import Run
from app.bundle.load import Bundle, load_bundle
from app.bundle.manifest import MODEL
from app.inference.engine import Engine
from app.inference.pool import open_engines, open_replacement
from app.observability.aggregation import exposition
from app.observability.metrics import Metrics
from app.observability.statistics import Statistics, statistics
from app.observability.tracing import Attributes, Tracer
from app.observability.utilization import InstanceCounts, Utilization, UtilizationMonitor
from app.settings import Settings
from app.system.cpus import available_cpus, granted_cpus
from app.system.device import CPU

log = logging.getLogger("swin.start")

# Decode threads beyond one for each CPU. Decoding releases the interpreter lock; threads that wait for the lock leave
# their CPU to these.
EXTRA_DECODE_THREADS = 2


@dataclass(frozen=True)
class LocalBackend:
    """The engines and their batcher in this process."""

    settings: Settings
    bundle: Bundle
    engines: Sequence[Engine]
    batcher: Batcher
    metrics: Metrics
    monitor: UtilizationMonitor

    async def statistics(self) -> Statistics:
        """Return the counts and times of inference of this process."""
        return statistics(self.metrics.counts(), self.metrics.batch_times)

    async def exposition(self) -> bytes:
        """Return the metrics of this process as text for Prometheus."""
        return exposition(self.metrics.counts())

    async def report(self) -> dict[str, Any]:
        """Return the device report and batch times of each engine, and the utilization of each component."""
        return {
            "engines": [engine.report() for engine in self.engines],
            "utilization": {name: round(share, 3) for name, share in self.monitor.utilization._asdict().items()},
            "bottleneck": self.monitor.verdict,
        }

    def close(self) -> None:
        """End the threads of the engines. The batcher must have drained."""
        for engine in self.engines:
            engine.close()


def decode_threads(settings: Settings) -> int:
    """Return the number of decode threads of the whole service."""
    return settings.decode_threads or available_cpus() + EXTRA_DECODE_THREADS


def open_backend(settings: Settings, metrics: Metrics, tracer: Tracer, instances: InstanceCounts) -> LocalBackend:
    """Load the bundle, open and verify the engines, and start the batcher.

    `instances` is the number of instances of each component besides engines and CPUs.

    Raises:
        StartError: the service cannot start as configured.
    """
    bundle = load_bundle(settings.bundle)
    log.debug("bundle loaded", extra={"bundle": str(settings.bundle)})
    engines = open_engines(bundle, settings)
    restarting = Lock()  # engines restart one after another, so that the second can share the session of the first

    def restart(index: int) -> Run:
        """Open another engine on the same device. A fallback to another device would be silent."""
        with restarting:
            failed = engines[index]
            engines[index] = open_replacement(bundle, engines, failed)
        failed.close()
        metrics.engine_restarts.inc()
        return engines[index].answer

    batcher = _open_batcher(settings, engines, restart, metrics, tracer)
    metrics.queue_depth.set_function(lambda: batcher.waiting)
    _describe(bundle, engines, metrics)
    batcher.start()
    log.info("ready", extra={"model": bundle.manifest.name, "device": ", ".join(_devices(engines))})
    return LocalBackend(settings, bundle, engines, batcher, metrics, _monitor(engines, instances, metrics))


def _monitor(engines: Sequence[Engine], instances: InstanceCounts, metrics: Metrics) -> UtilizationMonitor:
    instances = instances._replace(engine=len(engines), cpu=granted_cpus())
    monitor = UtilizationMonitor(instances, engines_use_cpus=engines[0].device_report.device == CPU)
    for component in Utilization._fields:
        metrics.utilization_ratio.labels(component).set_function(partial(_share, monitor, component))
    return monitor


def _share(monitor: UtilizationMonitor, component: str) -> float:
    share: float = getattr(monitor.utilization, component)
    return share


def _devices(engines: Sequence[Engine]) -> list[str]:
    """Return the devices of the engines, each once."""
    return [*dict.fromkeys(str(engine.device_report.device) for engine in engines)]


def _open_batcher(
    settings: Settings, engines: Sequence[Engine], restart: Callable[[int], Run], metrics: Metrics, tracer: Tracer
) -> Batcher:
    def on_batch(report: BatchReport) -> None:
        engine = engines[report.engine]
        padding = engine.bucket(report.size) - report.size
        metrics.batch_size.observe(report.size)
        metrics.batch_padding.inc(padding)
        metrics.batches_failed.inc(report.failed)
        metrics.engine_busy_seconds.labels(report.engine).inc(report.seconds)
        if not report.failed:
            metrics.batch_times.record(report.size, report.seconds, time.time())
        if report.traces:
            attributes: Attributes = {
                "swin.batch.size": report.size,
                "swin.batch.padding": padding,
                "swin.engine.index": report.engine,
                "swin.engine.device": str(engine.device_report.device),
            }
            add = partial(tracer.add_batch, report.traces, time.perf_counter(), report.seconds, attributes)
            # After the tasks that wait for the results of this batch: they are answered first.
            asyncio.get_running_loop().call_soon(partial(add, failed=report.failed))

    return Batcher(
        [engine.answer for engine in engines],
        max_batch=min(engine.buckets[-1] for engine in engines),
        capacity=settings.max_queue_size,
        max_queue_delay=settings.max_queue_delay_ms / 1e3,
        expected_seconds=lambda size: max(engine.expected_seconds(size) for engine in engines),
        batch_timeout=settings.batch_timeout,
        restart=restart,
        on_batch=on_batch,
        on_cancel=lambda stage: metrics.cancelled.labels(stage).inc(),
    )


def _describe(bundle: Bundle, engines: Sequence[Engine], metrics: Metrics) -> None:
    """Set the metrics that never change: devices and model."""
    manifest = bundle.manifest
    for number, engine in enumerate(engines):
        location = {"device": str(engine.device_report.device), "provider": engine.device_report.provider}
        metrics.engine.labels(number).info(location | {"precision": manifest.precision})
    metrics.model.info({"name": manifest.name, "source": manifest.source.id, "sha256": manifest.files[MODEL]})
