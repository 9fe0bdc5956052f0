"""The only wiring: opens what a service consists of in order, and closes it in reverse."""

import importlib.metadata
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from threading import Lock
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from app import bundle as bundles
from app.batcher import Batcher, BatchReport
from app.bundle import Bundle
from app.classifier import Classifier
from app.cpus import available_cpus
from app.engine import Device, Engine
from app.errors import DeviceError
from app.golden import check_golden, open_proved
from app.image import FORMATS, Limits
from app.metrics import Metrics
from app.routes import classify, health, model
from app.routes.access import AccessLog
from app.routes.direct import Direct
from app.routes.gate import Gate
from app.routes.keys import HEALTH, METRICS, Keys, declare
from app.routes.problems import ANYWHERE, add_problem_handlers
from app.seat import Run
from app.service import Service
from app.settings import Settings

log = logging.getLogger("swin.start")

SMALL_SECONDS, LEAST_GAIN = 0.01, 1.5
"""Networks that take less for an image are tried with one thread, too: two take a third more CPU time for theirs, or
more, and decoding wants it. Those that are not at least so many times as fast with all threads get one."""

WAITING = 2
"""Decode threads beside one for each CPU: some of them wait for Python's lock, which decoding itself does not hold."""

CORS: dict[str, Any] = {
    "allow_methods": ["GET", "POST"],
    "allow_headers": ["Authorization", "X-Request-ID", "X-Request-Timeout", "traceparent", "tracestate"],
    "expose_headers": ["X-Request-ID", "Server-Timing", "Retry-After", "X-Class-Index"],
}
"""What pages may do that were let in."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI application. Nothing is opened before its lifespan begins; `app.state.service` is there from then on."""
    settings = settings or Settings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings, metrics) as service:
            app.state.service = service
            yield

    app = FastAPI(
        title="swin-serve",
        summary="A Swin Transformer image classifier behind HTTP.",
        version=importlib.metadata.version("swin-serve"),
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # it would look at the environment each time
        redoc_url=None,
        responses=ANYWHERE,
    )
    for routes in (classify, health, model):
        app.include_router(routes.router)
    add_problem_handlers(app, metrics)
    app.add_middleware(Direct, routes=classify.router.routes, metrics=metrics)
    app.add_middleware(Gate, metrics=metrics)
    _lock(app, settings, metrics)
    if settings.cors_origins:  # around the lock: browsers ask what they may without a key
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **CORS)
    app.add_middleware(AccessLog, metrics=metrics)  # the outermost of ours: it sees every answer
    return app


def _lock(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Ask for a key, if there are any, wherever it is not left open."""
    if settings.api_keys:
        open_paths = {*(HEALTH if settings.health_open else ()), *(METRICS if settings.metrics_open else ())}
        keys = [key.get_secret_value() for key in settings.api_keys]
        app.add_middleware(Keys, metrics=metrics, keys=keys, open_paths=open_paths)
        declare(app.openapi(), open_paths)


@asynccontextmanager
async def open_service(settings: Settings, metrics: Metrics) -> AsyncIterator[Service]:
    """Bundle → proved engine → batcher → classifier; ready when it yields, drained when it returns.

    Raises:
        StartError: in one sentence, why this service cannot start.
    """
    bundle = bundles.load(settings.bundle)
    log.debug("bundle is whole", extra={"bundle": str(settings.bundle)})
    engines = _open_engines(bundle, settings)
    renewing = Lock()  # one at a time: the second can then use the session of the first

    def renew(index: int) -> Run:
        """On the device it was on: what failed there must not come back elsewhere in silence."""
        with renewing:
            engines[index] = _another(bundle, engines, engines[index])
        metrics.engines_renewed.inc()
        return engines[index].answer

    batcher = _open_batcher(settings, engines, renew, metrics)
    classifier = _open_classifier(
        bundle, settings, batcher, settings.decode_threads or available_cpus() + WAITING, metrics
    )
    service = Service(settings, bundle, engines, batcher, classifier, metrics)
    _watch(service)
    batcher.start()
    log.info("ready", extra={"model": bundle.manifest.name, "device": engines[0].truth.device})
    try:
        yield service
    finally:
        service.is_draining = True
        await batcher.drain(settings.drain_timeout)
        classifier.close()


def _open_engines(bundle: Bundle, settings: Settings) -> list[Engine]:
    """On the device asked for; for `auto` on the best that proves itself, saying why."""
    if settings.device == "auto":
        try:
            return [_open_on("cuda", bundle, settings)]
        except DeviceError as error:
            log.info("serving on the CPU", extra={"device": "auto", "why": str(error)})
    elif settings.device == "cuda":
        return [_open_on("cuda", bundle, settings)]
    engine = _open_on("cpu", bundle, settings)
    return [engine, *(engine.sibling() for _ in range(settings.engines - 1))]


def _open_on(device: Device, bundle: Bundle, settings: Settings) -> Engine:
    """With the threads asked for; else with all there are, unless the network is too small to gain by them."""
    threads = settings.threads or max(available_cpus() // settings.engines, 1)
    buckets = _buckets(min(settings.max_batch, settings.queue_images))
    engine = open_proved(bundle, device, threads, buckets, while_cheaper=True)
    if settings.threads or threads == 1 or device != "cpu" or engine.image_seconds > SMALL_SECONDS:
        return engine
    alone = open_proved(bundle, device, 1, buckets, while_cheaper=True)
    return alone if alone.image_seconds < LEAST_GAIN * engine.image_seconds else engine


def _another(bundle: Bundle, engines: Sequence[Engine], failed: Engine) -> Engine:
    """In the place of one that failed: on a session that another was renewed with, or else on a new one.

    So what several engines shared and lost is in memory once more, not once for each of them.
    """
    for engine in engines:
        if engine.truth == failed.truth and not engine.shares_session(failed):
            sibling = engine.sibling()
            check_golden(bundle, sibling)
            return sibling
    return open_proved(bundle, failed.truth.device, failed.truth.threads, failed.buckets)


def _open_classifier(
    bundle: Bundle, settings: Settings, batcher: Batcher, decode_threads: int, metrics: Metrics
) -> Classifier:
    return Classifier(
        batcher,
        preprocessing=bundle.manifest.preprocessing,
        labels=bundle.labels,
        activation=bundle.manifest.activation,
        head=bundle.head,
        last_map=bundle.manifest.evidence,
        limits=Limits(
            pixels=round(settings.max_megapixels * 1e6),
            formats=tuple(name for name in settings.formats if name in FORMATS),
        ),
        follow_profiles=settings.color_profiles == "convert",
        shrinks=settings.decode == "fast",
        decode_threads=decode_threads,
        decode_queue=settings.decode_queue,
        on_leave=lambda stage: metrics.abandoned.labels(stage).inc(),
    )


def _open_batcher(
    settings: Settings, engines: Sequence[Engine], renew: Callable[[int], Run], metrics: Metrics
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
        capacity=settings.queue_images,
        linger=settings.linger_ms / 1e3,
        expected_seconds=lambda size: max(engine.expected_seconds(size) for engine in engines),
        stuck_after=settings.stuck_seconds,
        renew=renew,
        on_batch=on_batch,
        on_leave=lambda stage: metrics.abandoned.labels(stage).inc(),
    )


def _buckets(max_batch: int) -> list[int]:
    """Powers of two, and the largest batch itself."""
    return [*(1 << power for power in range((max_batch - 1).bit_length())), max_batch]


def _watch(service: Service) -> None:
    """Gauges that are read when somebody asks, and what never changes."""
    metrics, manifest, truth = service.metrics, service.bundle.manifest, service.engines[0].truth
    metrics.ready.set_function(lambda: service.is_ready)
    metrics.queue_depth.set_function(lambda: service.batcher.waiting)
    metrics.decode_depth.set_function(lambda: service.classifier.decoding)
    metrics.uploaded_bytes.set_function(lambda: service.uploaded)
    metrics.engine.info({"device": truth.device, "provider": truth.provider, "precision": manifest.precision})
    metrics.model.info({"name": manifest.name, "source": manifest.source.id, "sha256": manifest.files[bundles.MODEL]})
