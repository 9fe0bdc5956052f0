"""The ASGI application with its routes and middleware, and the service that the routes use.

Opens no engine: a running batcher is given.
"""

import importlib.metadata
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from app.classification.opening import open_classifier
from app.http.middleware.admission import AdmissionMiddleware
from app.http.middleware.authentication import HEALTH, METRICS, ApiKeyMiddleware, declare
from app.http.middleware.context import RequestContextMiddleware
from app.http.middleware.fast_path import FastPathMiddleware
from app.http.problems import ANYWHERE, add_problem_handlers
from app.http.route_paths import RoutePaths
from app.http.routes import (
    classify,
    docs,
    health,
    huggingface,
    kserve,
    model,
    open_inference,
    page,
    preprocess,
    torchserve,
)
from app.models.model import Backend, Service
from app.models.registry import ONLY_VERSION, Model, ModelRegistry, path_name
from app.observability.metrics import Metrics
from app.observability.tracing import Tracer
from app.settings import Settings

# Methods and header fields for pages of the origins in the setting `cors_origins`.
CORS: dict[str, Any] = {
    "allow_methods": ["GET", "HEAD", "POST", "PUT"],
    "allow_headers": [
        *("Authorization", "X-Request-ID", "X-Request-Timeout", "traceparent", "tracestate"),
        "Inference-Header-Content-Length",
    ],
    "expose_headers": [
        *("X-Request-ID", "Server-Timing", "Retry-After", "X-Class-Index", "X-Image-Region"),
        "Inference-Header-Content-Length",
    ],
}


PROTOCOLS = (classify, preprocess, huggingface, open_inference, torchserve, kserve)


def application(
    settings: Settings,
    metrics: Metrics,
    tracer: Tracer,
    open_service: Callable[[], AbstractAsyncContextManager[Service]],
) -> FastAPI:
    """Return the ASGI application. Its lifespan opens the service and sets `app.state.service`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service() as service:
            app.state.service = service
            yield

    app = FastAPI(
        title="swin-serve",
        summary="A Swin Transformer image classifier behind HTTP.",
        version=importlib.metadata.version("swin-serve"),
        lifespan=lifespan,
        # With telemetry, FastAPI reads the environment in each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        docs_url=None,  # FastAPI's own page loads from other hosts
        redoc_url=None,
        redirect_slashes=False,  # a redirect would contain the client's Host field
        responses=ANYWHERE,
    )
    for routes in (*PROTOCOLS, health, model, docs):
        app.include_router(routes.router)
    if settings.page:
        app.include_router(page.router)
    add_problem_handlers(app, metrics)
    app.add_middleware(FastPathMiddleware, routes=[route for protocol in PROTOCOLS for route in protocol.router.routes])
    app.add_middleware(AdmissionMiddleware, metrics=metrics, carries_no_image=open_inference.carries_no_image)
    _require_key(app, settings, metrics)
    if settings.cors_origins:  # outside of the API keys, because browsers send preflight requests without a key
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **CORS)
    paths, prefix = RoutePaths(app.routes), settings.root_path
    # The outermost middleware, so that every response passes it.
    app.add_middleware(RequestContextMiddleware, metrics=metrics, tracer=tracer, prefix=prefix, paths=paths)
    return app


def _require_key(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    if settings.api_keys:
        open_paths = {*(HEALTH if settings.health_open else ()), *(METRICS if settings.metrics_open else ())}
        keys = [key.get_secret_value() for key in settings.api_keys]
        open_files = page.PATHS if settings.page else ()
        app.add_middleware(ApiKeyMiddleware, metrics=metrics, keys=keys, open_paths=open_paths, open_files=open_files)
        declare(app.openapi(), open_paths, open_files)


@asynccontextmanager
async def running_service(
    settings: Settings, backend: Backend, metrics: Metrics, decode_threads: int
) -> AsyncIterator[Service]:
    """Open the service in front of a running batcher. Drain the batcher at the end."""
    classifier = open_classifier(settings, backend.bundle, backend.batcher, decode_threads, metrics)
    name = settings.model_name or path_name(backend.bundle.manifest.name)
    models = ModelRegistry([Model(name, ONLY_VERSION, backend.bundle, classifier)])
    service = Service(settings, backend, models, metrics)
    metrics.decode_in_progress.set_function(lambda: classifier.decoder.in_progress)
    metrics.uploaded_bytes.set_function(lambda: service.uploaded)
    try:
        yield service
    finally:
        service.is_draining = True
        await backend.batcher.drain(settings.drain_timeout)
        classifier.decoder.close()
