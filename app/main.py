"""The composition root: opens the parts of a service in order and closes them in reverse. Holds no logic of a part."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from socket import socket

from fastapi import FastAPI

from app.backend import LocalBackend, decode_threads, open_backend
from app.http.application import application, running_service
from app.models.model import Service
from app.observability.metrics import Metrics
from app.observability.tracing import Tracer, open_tracer
from app.observability.utilization import BusySeconds, InstanceCounts, busy_seconds, total
from app.processes.supervisor import Supervisor
from app.processes.worker_config import worker_config
from app.settings import Settings

log = logging.getLogger("swin.start")

# Interval in seconds between two readings of the utilization.
READING_SECONDS = 1


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
    threads = decode_threads(settings)
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
    threads = -(-decode_threads(settings) // count)
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
