"""The short way to an endpoint, past the framework's layers: on it, they would cost as much as a small image itself.

FastAPI still knows these routes, for its documentation and for whoever asks with a method that they do not have.
"""

from collections.abc import Awaitable, Callable, Iterable

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app.errors import ServiceError
from app.metrics import Metrics
from app.routes.access import App, Receive, Scope, Send
from app.routes.problems import refusal

Endpoint = Callable[[Request], Awaitable[Response]]


class Direct:
    """Wraps an ASGI application.

    Args:
        app: what serves everything else.
        routes: of it, those whose endpoints need nothing but the request, and have no parameters in their paths.
        metrics: where refusals are counted.
    """

    def __init__(self, app: App, routes: Iterable[BaseRoute], metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        direct = [route for route in routes if isinstance(route, APIRoute)]
        self._routes = {(method, route.path): route for route in direct for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        endpoint: Endpoint = route.endpoint
        try:
            response = await endpoint(Request(scope, receive))
        except ServiceError as error:
            response = refusal(error, self._metrics)
        await response(scope, receive, send)
