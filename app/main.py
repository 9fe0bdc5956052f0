"""The composition root: opens the parts of a service in order and closes them in reverse. Holds no logic of a part."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from socket import socket
from threading import Lock
from typing import Any

from fastapi import FastAPI

from app.batching.batcher import Batcher, BatchReport
from app.batching.engine_worker import Run
from app.bundle.load import Bundle, load_bundle
from app.bundle.manifest import MODEL
from app.http.application import application, running_service
from app.inference.engine import Engine
from app.inference.pool import open_engines, open_replacement
from app.models.model import Service
from app.observability.aggregation import exposition
from app.observability.metrics import Metrics
from app.observability.statistics import Statistics, statistics
from app.observability.tracing import Attributes, Tracer, open_tracer
from app.observability.utilization import (
    BusySeconds,
    InstanceCounts,
    Utilization,
    UtilizationMonitor,
    busy_seconds,
    total,
)
from app.processes.supervisor import Supervisor
from app.processes.worker_config import worker_config
from app.settings import Settings
from app.system.cpus import available_cpus, granted_cpus
from app.system.device import CPU

log = logging.getLogger("swin.start")

# Decode threads beyond one for each CPU. Decoding releases the interpreter lock; threads that wait for the lock leave
# their CPU to these.
EXTRA_DECODE_THREADS = 2

# Interval in seconds between two readings of the utilization.
READING_SECONDS = 1


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


def create_app(settings: Settings | None = None, tracer: Tracer | None = None) -> FastAPI:
    """Return the ASGI application of a service in one process.

    Its lifespan opens and closes the service, and closes the tracer. By default, the tracer is the one
    that the variables of OpenTelemetry ask for.
    """
    settings = settings or Settings()
    metrics, tracer = Metrics(), tracer or open_tracer()
    return application(settings, metrics, tracer, lambda: open_service(settings, metrics, tracer))


@asynccontextmanager
async def open_service(settings: Settings, metrics: Metrics, tracer: Tracer) -> AsyncIterator[Service]:
    """Open backend and classifier. The service is ready inside the block and has drained after it.

    Closes the tracer at the end.

    Raises:
        StartError: the service cannot start as configured.
    """
    threads = settings.decode_threads or available_cpus() + EXTRA_DECODE_THREADS
    backend = open_backend(settings, metrics, tracer, InstanceCounts(decode=threads, http_worker=1))
    try:
        async with running_service(settings, backend, metrics, threads) as service:
            metrics.ready.set_function(lambda: service.is_ready)
            async with _watching(backend, lambda: busy_seconds(metrics.counts())):
                yield service
    finally:
        backend.close()
        tracer.close()


@asynccontextmanager
async def open_supervisor(
    settings: Settings, listeners: Sequence[socket], grpc_address: str | None = None
) -> AsyncIterator[Supervisor]:
    """Open the backend and one HTTP worker for each listener.

    All workers accept connections inside the block and have exited after it.

    Raises:
        StartError: the service cannot start as configured.
    """
    metrics, tracer, count = Metrics("batcher"), open_tracer(), len(listeners)
    threads = -(-(settings.decode_threads or available_cpus() + EXTRA_DECODE_THREADS) // count)
    instances = InstanceCounts(decode=threads * count, http_worker=count, batcher=1)
    backend = open_backend(settings, metrics, tracer, instances)
    config = worker_config(
        settings,
        backend.bundle,
        backend.batcher.limits,
        len(backend.engines),
        http_workers=count,
        decode_threads=threads,
        is_traced=tracer.is_on,
        grpc_address=grpc_address,
    )
    supervisor = Supervisor(config, listeners, backend.batcher, backend, metrics)
    metrics.ready.set_function(lambda: supervisor.is_ready)
    try:
        await supervisor.start()
        async with _watching(backend, supervisor.busy):
            yield supervisor
    finally:
        await supervisor.stop()
        await backend.batcher.drain(0)
        backend.close()
        tracer.close()


@asynccontextmanager
async def _watching(backend: LocalBackend, busy_now: Callable[[], BusySeconds]) -> AsyncIterator[None]:
    """Take a reading of the utilization every second inside the block."""

    async def watch() -> None:
        while True:
            try:
                running = BusySeconds(engine=backend.batcher.running_seconds)
                backend.monitor.record(time.monotonic(), total(busy_now(), running))
            except Exception:
                log.exception("utilization not read")
            await asyncio.sleep(READING_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


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
