"""API keys: a request without a valid key is refused before its body is read. Knows no settings."""

from collections.abc import Collection, Iterable
from typing import Any

from app.errors import Unauthorized
from app.http.middleware.context import App, Receive, Scope, Send
from app.http.problems import refusal
from app.http.request_head import path_of
from app.observability.metrics import Metrics
from app.protocols.bearer_keys import BearerKeys

# The paths that can be served without a key.
HEALTH = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/ping")
METRICS = ("/metrics",)


class ApiKeyMiddleware:
    """ASGI middleware that asks for an API key, except on some paths.

    Args:
        app: the next ASGI application.
        metrics: counts refusals.
        keys: the API keys.
        open_paths: paths that need no key.
        open_files: paths that need no key to read them. Other methods need one: `POST /` classifies.
    """

    def __init__(
        self,
        app: App,
        metrics: Metrics,
        keys: Iterable[str],
        open_paths: Collection[str],
        open_files: Collection[str] = (),
    ) -> None:
        self._app, self._metrics = app, metrics
        self._open_paths, self._open_files = open_paths, open_files
        self._keys = BearerKeys(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_open(scope) or self._admits(scope):
            await self._app(scope, receive, send)
            return
        await refusal(Unauthorized(), self._metrics)(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path = path_of(scope)
        return path in self._open_paths or (path in self._open_files and scope["method"] in {"GET", "HEAD"})

    def _admits(self, scope: Scope) -> bool:
        return self._keys.admits([value for name, value in scope["headers"] if name == b"authorization"])


def declare(document: dict[str, Any], open_paths: Collection[str], open_files: Collection[str] = ()) -> None:
    """Add to an OpenAPI document which operations need a key."""
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path in document["paths"].keys() - set(open_paths):
        for method, operation in document["paths"][path].items():
            if method != "get" or path not in open_files:
                operation["security"] = [{"key": []}]
