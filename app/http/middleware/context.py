"""The outermost middleware: request ID and trace, log line, metrics, and a response to every defect.

Knows no route.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect

from app.errors import Draining, InternalError
from app.http.problems import problem_response
from app.http.request_head import path_of
from app.http.route_paths import RoutePaths
from app.http.spans import attributes_of, name_of
from app.observability.logging import request_fields
from app.observability.metrics import Metrics
from app.observability.tracing import RequestTrace, Tracer, current_trace, log_fields, parent_of
from app.protocols.request_identity import USABLE_ID, new_id

log = logging.getLogger("swin.request")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ID_HEADER = b"x-request-id"

# The status in log and metrics after a disconnect of the client, as in nginx. It is not sent.
CLIENT_CLOSED_REQUEST = 499


class RequestContextMiddleware:
    """ASGI middleware that gives each request an ID, measures and traces it, and answers defects.

    Args:
        app: the next ASGI application.
        metrics: the metrics that count requests.
        tracer: decides which requests are traced, and exports their spans after the response.
        prefix: the setting `root_path`, the prefix of a proxy. If it is empty, the value of the
            server applies.
        paths: the paths of the routes. Those without parameters are also served with a slash at
            their end: a redirect would need the public address, which swin-serve does not know.
    """

    def __init__(self, app: App, metrics: Metrics, tracer: Tracer, prefix: str, paths: RoutePaths) -> None:
        self._app, self._metrics, self._tracer, self._prefix, self._paths = app, metrics, tracer, prefix, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        scope.setdefault("state", {})["started"] = started  # deadlines count from here
        code, path = None, scope["path"]
        if self._prefix or path[-1:] == "/":
            self._normalize_path(scope, path)
        identity, parent = _identity(scope), parent_of(scope["headers"])
        trace = self._tracer.begin(parent, scope["headers"], started)
        token = request_fields.set({"request_id": identity, **log_fields(parent, trace)})
        trace_token = current_trace.set(trace)

        async def send_with_id(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"] = [*message["headers"], (ID_HEADER, identity.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            code = CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            # At the end of `drain_timeout`, uvicorn cancels the task. If the error were raised again,
            # uvicorn would log it as a defect. Other servers cancel the task when the client disconnects.
            if code is None and scope["app"].state.service.is_draining:
                await problem_response(Draining())(scope, receive, send_with_id)
        except Exception:
            log.exception("unexpected error")
            if code is None:
                await problem_response(InternalError())(scope, receive, send_with_id)
        finally:
            self._record(scope, path, code or CLIENT_CLOSED_REQUEST, time.perf_counter() - started, trace)
            current_trace.reset(trace_token)
            request_fields.reset(token)

    def _normalize_path(self, scope: Scope, path: str) -> None:
        """Set the prefix, and remove the slash at the end of a known path."""
        if self._prefix:
            scope["root_path"] = self._prefix
        if path[-1:] == "/" and path_of(scope)[:-1] in self._paths:
            scope["path"] = path[:-1]

    def _record(self, scope: Scope, path: str, code: int, seconds: float, trace: RequestTrace | None) -> None:
        # A request that was refused before the router saw it has no route yet.
        route = getattr(scope.get("route"), "path", None) or self._paths.template_of(path_of(scope))
        # The label is the route's path: each path of a client would be another time series.
        self._metrics.observe_request(route or "unknown", code, seconds)
        if log.isEnabledFor(logging.INFO):
            client = (scope.get("client") or [None])[0]
            fields = {"client": client, "method": scope["method"], "path": path}
            log.info("request", extra=fields | {"code": code, "ms": round(seconds * 1e3, 2)})
        if trace is not None:
            attributes = attributes_of(scope, route, path, None if code == CLIENT_CLOSED_REQUEST else code)
            self._tracer.end(trace, name_of(scope, route), attributes, failed=code >= HTTPStatus.INTERNAL_SERVER_ERROR)


def _identity(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == ID_HEADER:
            with contextlib.suppress(UnicodeDecodeError):
                given: str = value.decode("ascii")
                if USABLE_ID.fullmatch(given):
                    return given
    return new_id()
