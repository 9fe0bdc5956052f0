"""API keys: a request without a valid key is refused before its body is read. Knows no settings."""

import hashlib
import hmac
import re
from collections.abc import Collection, Iterable
from typing import Any

from app.errors import Unauthorized
from app.http.middleware.context import App, Receive, Scope, Send
from app.http.problems import refusal
from app.http.request_head import path_of
from app.observability.metrics import Metrics

# The paths that can be served without a key.
HEALTH = ("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/ping")
METRICS = ("/metrics",)

CREDENTIALS = re.compile(rb"bearer +(\S+) *", re.IGNORECASE)


class ApiKeyMiddleware:
    """ASGI middleware that asks for an API key, except on some paths."""

    def __init__(self, app: App, metrics: Metrics, keys: Iterable[str], open_paths: Collection[str]) -> None:
        self._app, self._metrics, self._open_paths = app, metrics, open_paths
        self._known = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or path_of(scope) in self._open_paths or self._is_known(_key(scope)):
            await self._app(scope, receive, send)
            return
        await refusal(Unauthorized(), self._metrics)(scope, receive, send)

    def _is_known(self, key: bytes) -> bool:
        # Digests have one length, and all of them are compared, so the time reveals nothing about a key.
        given = _digest(key)
        return sum(hmac.compare_digest(given, known) for known in self._known) > 0


def declare(document: dict[str, Any], open_paths: Collection[str]) -> None:
    """Add to an OpenAPI document which operations need a key."""
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path in document["paths"].keys() - set(open_paths):
        for operation in document["paths"][path].values():
            operation["security"] = [{"key": []}]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _key(scope: Scope) -> bytes:
    """Return the key of the only `Authorization` field. Otherwise return no bytes, which is never a valid key."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    credentials = CREDENTIALS.fullmatch(given[0]) if len(given) == 1 else None
    return credentials[1] if credentials else b""
