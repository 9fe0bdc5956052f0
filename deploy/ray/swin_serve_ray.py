"""swin-serve as a deployment of Ray Serve: `serve run --working-dir deploy/ray deploy/ray/serve.yaml`.

Each replica is a service in one process, with all routes, limits and its own batcher, behind Ray's proxies.
docs/how-to/ray.md explains it.
"""

import math
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import AsyncExitStack, nullcontext
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve import Application

from app.backend import EXTRA_DECODE_THREADS
from app.classification.classifier import Classification
from app.http.application import application
from app.inference import onnx_runtime
from app.main import open_service
from app.models.model import Service
from app.observability import logging as logs
from app.observability.metrics import Metrics
from app.observability.tracing import open_tracer
from app.settings import Settings
from app.system import memory

# Requests in one replica. The others wait in the proxy, which sends them to the replica with the shortest queue. An
# engine needs two batches here to be busy: one that runs, one that waits.
MAX_ONGOING_REQUESTS = 64

# Seconds for the end of a replica, beside those for its last requests.
SHUTDOWN_SECONDS = 10

# Settings of the parts that Ray replaces: listeners, processes and connections.
WITHOUT_EFFECT = frozenset(
    {
        *("host", "port", "grpc_port", "http_workers", "max_connections", "header_timeout", "trusted_proxies"),
        "drain_delay",
    }
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


class Replica:
    """One service. Ray sends requests to it when bundle and devices are verified."""

    _service: Service

    def __init__(self, settings: Settings) -> None:
        resources = ray.get_runtime_context().get_assigned_resources()
        self._settings = settings.model_copy(update=threads(settings, resources))
        self._opened = AsyncExitStack()
        logs.configure(settings.log_format, settings.log_level)
        memory.configure_malloc()
        onnx_runtime.load()

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Open the service, and return its application for `serve.ingress()`.

        Ray would also run a lifespan that opens the service. But Ray does not show the error of a
        lifespan, while `serve status` shows an error of this method.

        Raises:
            StartError: the service cannot start as configured.
        """
        metrics, tracer = Metrics(), open_tracer()
        self._service = await self._opened.enter_async_context(open_service(self._settings, metrics, tracer))
        app = application(self._settings, metrics, tracer, lambda: nullcontext(self._service))
        app.add_middleware(WithoutRequestId)
        return app

    async def __del__(self) -> None:
        """Drain the service. Ray calls this method when the last request has ended."""
        await self._opened.aclose()

    def check_health(self) -> None:
        """Raise an error if the replica must be restarted. Ray calls this method, as Kubernetes asks /health/live.

        Raises:
            RuntimeError: no engine is left, or the batcher has failed.
        """
        if self._service.is_broken:
            raise RuntimeError("no engine of this replica works; the cause is in its log")

    async def classify(
        self,
        image: bytes,
        top_k: int | None = None,
        *,
        embedding: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109 (the batcher refuses an image that would miss its deadline)
    ) -> Classification:
        """Return the best classes of an encoded image, for handles: `handle.classify.remote(image)`.

        The arguments and the errors are those of `LocalModel.classify`. Without a timeout, the setting
        `request_timeout` applies. Images of handles and of HTTP share batches.
        """
        k = self._settings.top_k if top_k is None else top_k
        if k < 1:
            raise ValueError(f"top_k is {k}, and must be at least 1")
        deadline = time.perf_counter() + (self._settings.request_timeout if timeout is None else timeout)
        result = await self._service.classifier.classify(image, k, embedding=embedding, deadline=deadline)
        self._service.observe_stages(result.seconds)
        return result


# Ray restarts a replica after three checks that fail or get no answer: after a minute, as a pod on Kubernetes.
SwinClassifier = serve.deployment(
    serve.ingress()(Replica), name="SwinClassifier", health_check_period_s=10, health_check_timeout_s=20
)


def app(settings: Settings) -> Application:
    """Return the application of a `serve` configuration, whose `args` are settings by their names.

    Raises:
        ValueError: a setting is not valid, or has no effect under Ray.
    """
    if unused := sorted(settings.model_fields_set & WITHOUT_EFFECT):
        raise ValueError(f"Ray's proxies listen instead of swin-serve; remove {', '.join(unused)}")
    return SwinClassifier.options(**options(settings)).bind(settings)


def options(settings: Settings) -> dict[str, Any]:
    """Return the options of the deployment that follow from the settings. A configuration file can override them."""
    return {
        "max_ongoing_requests": min(MAX_ONGOING_REQUESTS, settings.max_queue_size),
        "graceful_shutdown_timeout_s": settings.request_timeout + SHUTDOWN_SECONDS,
    }


def threads(settings: Settings, resources: Mapping[str, float]) -> dict[str, int]:
    """Return the settings of threads for a replica with these resources of Ray, unless they are set.

    Ray reserves CPUs, but confines no process to them: the service would count all CPUs of the node.
    """
    cpus = max(1, math.ceil(resources.get("CPU", 0)))
    return {
        "threads": settings.threads or cpus,
        "decode_threads": settings.decode_threads or cpus + EXTRA_DECODE_THREADS,
    }


class WithoutRequestId:
    """ASGI middleware that leaves X-Request-ID to Ray's proxy, which adds it to each response."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [each for each in message["headers"] if each[0] != b"x-request-id"]
            await send(message)

        await self._app(scope, receive, send_without_id)
