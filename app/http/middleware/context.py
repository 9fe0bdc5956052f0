"""Around every request: its id and trace, its time, a line in the log, a count, an answer come what may."""

import asyncio
import contextlib
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect

from app.errors import Draining, InternalError
from app.http.problems import problem_response
from app.http.request_head import path_of
from app.observability.logging import of_request
from app.observability.metrics import Metrics

log = logging.getLogger("swin.request")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ID_HEADER = b"x-request-id"
USABLE_ID = re.compile(r"[\w.:+/=@-]{1,128}", re.ASCII)
"""An id from outside is repeated in the log and in the answer: nothing that could forge a line or a header."""

TRACEPARENT = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})(?P<trace_id>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
"""W3C Trace Context, 3.2: version 00 has 55 characters, later ones may go on after a dash, ff and zeros are invalid."""

ABANDONED = 499
"""Not sent to anybody: the code in log and metrics of a request whose caller left (nginx's convention)."""


class RequestContextMiddleware:
    """Wraps an ASGI application.

    Args:
        app: what is wrapped.
        metrics: where requests are counted.
        prefix: of all paths, where a proxy in front has one; if empty, what the server says of it holds.
        paths: those that are served with a slash at their end, too. A redirect would need the address that the caller
            used, which only the caller knows.
    """

    def __init__(self, app: App, metrics: Metrics, prefix: str, paths: Collection[str]) -> None:
        self._app, self._metrics, self._prefix, self._paths = app, metrics, prefix, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        scope.setdefault("state", {})["started"] = started  # what deadlines are counted from
        code, path = None, scope["path"]
        if self._prefix or path[-1:] == "/":
            self._settle(scope, path)
        identity = _identity(scope)
        token = of_request.set({"request_id": identity, **_trace(scope)})

        async def send_with_id(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"] = [*message["headers"], (ID_HEADER, identity.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            code = ABANDONED
        except asyncio.CancelledError:
            if code is None:  # uvicorn's patience at a shutdown is over; passed on, it would be called our defect
                await problem_response(Draining())(scope, receive, send_with_id)
        except Exception:
            log.exception("unexpected error")
            if code is None:
                await problem_response(InternalError())(scope, receive, send_with_id)
        finally:
            self._note(scope, path, code or ABANDONED, time.perf_counter() - started)
            of_request.reset(token)

    def _settle(self, scope: Scope, path: str) -> None:
        """Make the path what routes know, once for all that look at it."""
        if self._prefix:
            scope["root_path"] = self._prefix
        if path[-1:] == "/" and path_of(scope)[:-1] in self._paths:
            scope["path"] = path[:-1]

    def _note(self, scope: Scope, path: str, code: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")  # the pattern: a path from outside would be a label each
        self._metrics.observe_request(route, code, seconds)
        if log.isEnabledFor(logging.INFO):
            client = (scope.get("client") or [None])[0]
            fields = {"client": client, "method": scope["method"], "path": path}
            log.info("request", extra=fields | {"code": code, "ms": round(seconds * 1e3, 2)})


def _identity(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == ID_HEADER:
            with contextlib.suppress(UnicodeDecodeError):
                given: str = value.decode("ascii")
                if USABLE_ID.fullmatch(given):
                    return given
    return f"{random.getrandbits(128):032x}"  # not secret, and no system call


def _trace(scope: Scope) -> dict[str, str]:
    """The trace that this request is a part of, if its caller says so and in one way."""
    given = [value for name, value in scope["headers"] if name == b"traceparent"]
    parent = TRACEPARENT.fullmatch(given[0]) if len(given) == 1 else None
    return {"trace_id": parent["trace_id"].decode()} if parent else {}
