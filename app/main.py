"""The only wiring: opens what a service consists of in order, and closes it in reverse."""

import asyncio
import logging
import math
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
from app.bundle.load import Bundle, contents, load_bundle
from app.bundle.manifest import MODEL
from app.http.application import application, classifying
from app.inference.engine import Engine
from app.inference.pool import another, open_engines
from app.models.model import Service
from app.observability.metrics import Metrics, exposition
from app.observability.utilization import Parts, Watch, busy, together
from app.processes.http_worker import WorkerConfig
from app.processes.shared_memory import TensorLayout
from app.processes.supervisor import Supervisor
from app.settings import Settings
from app.system.cpus import available_cpus, granted_cpus
from app.system.device import CPU
from app.system.open_files import connections_within

log = logging.getLogger("swin.start")

WAITING = 2
"""Decode threads beside one for each CPU: some of them wait for Python's lock, which decoding itself does not hold."""


SPREADS = 3
"""Standard deviations that an HTTP worker's connections may be above its share before it refuses what others would take."""

READING_SECONDS = 1
"""Between two looks at how busy everything is."""


@dataclass(frozen=True)
class LocalBackend:
    """The engines, and the queue in front of them, in this process."""

    settings: Settings
    bundle: Bundle
    engines: Sequence[Engine]
    batcher: Batcher
    metrics: Metrics
    watch: Watch

    async def exposition(self) -> bytes:
        """Its metrics, which are those of the whole process."""
        return exposition(self.metrics.counts())

    async def report(self) -> dict[str, Any]:
        """Of each engine what its session reports and the time of each batch size; how busy everything is."""
        return {
            "engines": [engine.report() for engine in self.engines],
            "utilization": {part: round(share, 3) for part, share in self.watch.shares._asdict().items()},
            "bottleneck": self.watch.verdict,
        }

    def close(self) -> None:
        """Let the engines' own threads end. The batcher has been drained."""
        for engine in self.engines:
            engine.close()


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI application of a service that is one process."""
    settings = settings or Settings()
    metrics = Metrics()
    return application(settings, metrics, lambda: open_service(settings, metrics))


@asynccontextmanager
async def open_service(settings: Settings, metrics: Metrics) -> AsyncIterator[Service]:
    """Backend → classifier; ready when it yields, drained when it returns.

    Raises:
        StartError: in one sentence, why this service cannot start.
    """
    threads = settings.decode_threads or available_cpus() + WAITING
    backend = open_backend(settings, metrics, Parts(decode=threads, http_worker=1))
    try:
        async with classifying(settings, backend, metrics, threads) as service:
            metrics.ready.set_function(lambda: service.is_ready)
            async with _watching(backend, lambda: busy(metrics.counts())):
                yield service
    finally:
        backend.close()


@asynccontextmanager
async def open_supervisor(settings: Settings, listeners: Sequence[socket]) -> AsyncIterator[Supervisor]:
    """Backend → HTTP workers, a process for each listener; all take connections when it yields, and have ended after.

    Raises:
        StartError: in one sentence, why this service cannot start.
    """
    metrics, count = Metrics("queue"), len(listeners)
    threads = -(-(settings.decode_threads or available_cpus() + WAITING) // count)
    backend = open_backend(settings, metrics, Parts(decode=threads * count, http_worker=count, queue=1))
    http_workers = Supervisor(_papers(backend, count, threads), listeners, backend.batcher, backend, metrics)
    metrics.ready.set_function(lambda: http_workers.is_ready)
    try:
        await http_workers.start()
        async with _watching(backend, http_workers.busy):
            yield http_workers
    finally:
        await http_workers.stop()
        await backend.batcher.drain(0)
        backend.close()


@asynccontextmanager
async def _watching(backend: LocalBackend, busy_now: Callable[[], Parts]) -> AsyncIterator[None]:
    """Meanwhile, a reading every second."""

    async def watch() -> None:
        while True:
            try:
                running = Parts(engine=backend.batcher.running_seconds)
                backend.watch.read(time.monotonic(), together(busy_now(), running))
            except Exception:
                log.exception("how busy the service is cannot be told")
            await asyncio.sleep(READING_SECONDS)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def _papers(backend: LocalBackend, http_workers: int, decode_threads: int) -> WorkerConfig:
    """What each of them gets to know: settings with its share of what bounds the whole service, and all of the rest."""
    settings, manifest, batcher = backend.settings, backend.bundle.manifest, backend.batcher

    def share(of: int) -> int:
        return -(-of // http_workers)

    shares = {
        "max_decode_queue_size": max(
            share(settings.max_decode_queue_size), min(settings.max_decode_queue_size, settings.max_client_batch_size)
        ),
        "max_connections": connections_within(_dealt(settings.max_connections, http_workers)),  # as this process
        "max_uploads_mib": max(share(settings.max_uploads_mib), settings.max_body_mib),
    }
    shapes = TensorLayout(
        # Those that wait, are run, and are on their way back: more cannot be at once.
        slots=settings.max_queue_size + 2 * batcher.limits.max_batch * len(backend.engines),
        pixels=(manifest.input_height, manifest.input_width, 3),
        classes=manifest.classes,
        tokens=(manifest.evidence.positions, manifest.evidence.channels),
    )
    known = contents(backend.bundle)
    return WorkerConfig(settings.model_copy(update=shares), known, batcher.limits, shapes, decode_threads)


def open_backend(settings: Settings, metrics: Metrics, there_are: Parts) -> LocalBackend:
    """Bundle → proved engines → batcher, which works when this returns. `there_are` so many of what uses it.

    Raises:
        StartError: in one sentence, why this service cannot start.
    """
    bundle = load_bundle(settings.bundle)
    log.debug("bundle is whole", extra={"bundle": str(settings.bundle)})
    engines = open_engines(bundle, settings)
    restarting = Lock()  # one at a time: the second can then use the session of the first

    def restart(index: int) -> Run:
        """On the device it was on: what failed there must not come back elsewhere in silence."""
        with restarting:
            failed = engines[index]
            engines[index] = another(bundle, engines, failed)
        failed.close()
        metrics.engine_restarts.inc()
        return engines[index].answer

    batcher = _open_batcher(settings, engines, restart, metrics)
    metrics.queue_depth.set_function(lambda: batcher.waiting)
    _describe(bundle, engines, metrics)
    batcher.start()
    log.info("ready", extra={"model": bundle.manifest.name, "device": ", ".join(_places(engines))})
    return LocalBackend(settings, bundle, engines, batcher, metrics, _watch(engines, there_are, metrics))


def _watch(engines: Sequence[Engine], there_are: Parts, metrics: Metrics) -> Watch:
    there_are = there_are._replace(engine=len(engines), cpu=granted_cpus())
    watch = Watch(there_are, engines_use_cpus=engines[0].device_report.device == CPU)
    for part in Parts._fields:
        metrics.utilization_ratio.labels(part).set_function(partial(_share, watch, part))
    return watch


def _share(watch: Watch, part: str) -> float:
    share: float = getattr(watch.shares, part)
    return share


def _dealt(connections: int, http_workers: int) -> int:
    """How many one HTTP worker may have: they are dealt at random, so that some get more than their share of all."""
    share = connections / http_workers
    return min(math.ceil(share + SPREADS * math.sqrt(share)), connections)


def _places(engines: Sequence[Engine]) -> list[str]:
    """Where they run, each place once."""
    return [*dict.fromkeys(str(engine.device_report.device) for engine in engines)]


def _open_batcher(
    settings: Settings, engines: Sequence[Engine], restart: Callable[[int], Run], metrics: Metrics
) -> Batcher:
    def on_batch(report: BatchReport) -> None:
        engine = engines[report.engine]
        metrics.batch_size.observe(report.size)
        metrics.batch_padding.inc(engine.bucket(report.size) - report.size)
        metrics.batches_failed.inc(report.failed)
        metrics.engine_busy_seconds.labels(report.engine).inc(report.seconds)

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
    """What never changes."""
    manifest = bundle.manifest
    for number, engine in enumerate(engines):
        place = {"device": str(engine.device_report.device), "provider": engine.device_report.provider}
        metrics.engine.labels(number).info(place | {"precision": manifest.precision})
    metrics.model.info({"name": manifest.name, "source": manifest.source.id, "sha256": manifest.files[MODEL]})
