"""Who may ask: with keys set, a request brings one of them, or is told so before its body is read."""

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

HEALTH, METRICS = ("/health/live", "/health/ready"), ("/metrics",)
"""What can be left open."""

CREDENTIALS = re.compile(rb"bearer +(\S+) *", re.IGNORECASE)


class ApiKeyMiddleware:
    """Wraps an ASGI application, of which some paths stay open."""

    def __init__(self, app: App, metrics: Metrics, keys: Iterable[str], open_paths: Collection[str]) -> None:
        self._app, self._metrics, self._open_paths = app, metrics, open_paths
        self._known = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request pass, or refuse it."""
        if scope["type"] != "http" or path_of(scope) in self._open_paths or self._is_known(_key(scope)):
            await self._app(scope, receive, send)
            return
        await refusal(Unauthorized(), self._metrics)(scope, receive, send)

    def _is_known(self, key: bytes) -> bool:
        """In a time that says nothing about the keys: digests are of one length, and all of them are compared."""
        given = _digest(key)
        return sum(hmac.compare_digest(given, known) for known in self._known) > 0


def declare(document: dict[str, Any], open_paths: Collection[str]) -> None:
    """Add to an OpenAPI document what needs a key."""
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path in document["paths"].keys() - set(open_paths):
        for operation in document["paths"][path].values():
            operation["security"] = [{"key": []}]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _key(scope: Scope) -> bytes:
    """What stands in the only `Authorization` header; empty, which is nobody's key, if there is no such thing."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    credentials = CREDENTIALS.fullmatch(given[0]) if len(given) == 1 else None
    return credentials[1] if credentials else b""
