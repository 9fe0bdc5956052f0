"""The short way to an endpoint, past the framework's layers: on it, they would cost as much as a small image itself.

It is taken only where the framework would do nothing else: see `FastPathMiddleware`.
"""

import inspect
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute

from app.http.middleware.context import App, Receive, Scope, Send
from app.http.request_head import path_of

# Routes whose choice depends on nothing but method and path.
ROUTES_BY_PATH = {APIRoute, Mount, Route, WebSocketRoute}


class FastPathMiddleware:
    """Wraps an ASGI application, as its innermost middleware.

    A request takes the short way if the framework would choose this very route for it and then do nothing but call the
    endpoint with the request. So not if a middleware was put between, another route comes first, or the route has a
    dependency, be it of its own, of a router, or of the application. Errors go to the application's own handlers.

    Args:
        app: what serves everything else.
        routes: those whose endpoints need nothing but the request, and have no parameters in their paths.
    """

    def __init__(self, app: App, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._routes = [route for route in routes if type(route) is APIRoute]  # a subclass may do more
        self._is_innermost = isinstance(app, ExceptionMiddleware)
        self._ways = dict[tuple[str, str], tuple[BaseRoute, Dependant]]()  # by method and path
        self._lists = list[tuple[list[BaseRoute], list[BaseRoute]]]()  # of routes, and what they were at the last look

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        way = self._way_of(scope) if self._is_innermost and scope["type"] == "http" else None
        if way is None or way[1].dependencies:
            await self._app(scope, receive, send)
            return
        scope["route"], dependant = way
        try:
            response = await dependant.call(**{dependant.request_param_name: Request(scope, receive)})
        except Exception as error:  # noqa: BLE001 (passed on)
            await _handled(error, scope, receive, send)
            return
        await response(scope, receive, send)

    def _way_of(self, scope: Scope) -> tuple[BaseRoute, Any] | None:
        """Return the route as it is included in the application, or None where the way is not known to be free."""
        app: FastAPI = scope["app"]
        if not self._lists or self._lists[0][0] is not app.router.routes:
            self._look(app)
        for now, before in self._lists:
            if now != before:
                self._look(app)
                break
        return self._ways.get((scope["method"], path_of(scope)))

    def _look(self, app: FastAPI) -> None:
        self._lists = [(routes, list(routes)) for routes in _lists_of_routes(app.router.routes)]
        contexts = [*iter_route_contexts(app.router.routes)]
        mine = [context for context in contexts if context.original_route in self._routes and _is_free(context)]
        # Whatever wraps the router itself comes after everything that this class could look at.
        is_open = app.router.middleware_stack == app.router.app
        self._ways = {
            (method, context.path or ""): (context.original_route, context.dependant)
            for context in mine
            for method in context.methods or ()
            if is_open and _is_first(context, method, contexts)
        }


def _lists_of_routes(routes: list[BaseRoute]) -> list[list[BaseRoute]]:
    """Return this list and those of the routers that are included in it."""
    included = [route.original_router.routes for route in routes if hasattr(route, "original_router")]
    return [routes, *(each for inner in included for each in _lists_of_routes(inner))]


def _is_free(context: RouteContext) -> bool:
    """Return whether the endpoint needs nothing but the request, and no body limit is put in front of it."""
    dependant = context.dependant
    needs = (dependant.path_params, dependant.query_params, dependant.header_params, dependant.cookie_params)
    return (
        inspect.iscoroutinefunction(dependant.call)
        and bool(dependant.request_param_name)
        and not any(needs)
        and context.body_field is None
        and context.max_body_size is None
    )


def _is_first(context: RouteContext, method: str, contexts: Iterable[RouteContext]) -> bool:
    """Return whether no other route is chosen for this method and the path of this route."""
    scope: dict[str, Any] = {"type": "http", "method": method, "path": context.path, "headers": []}
    for each in contexts:
        if type(each.original_route) not in ROUTES_BY_PATH:
            return False
        if each.matches(scope)[0] is Match.FULL:
            return each is context
    return False


async def _handled(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Let the application's own handlers answer; what they do not know is raised again."""

    async def fail(*_: object) -> None:
        raise error

    app: FastAPI = scope["app"]
    handlers = {kind: handler for kind, handler in app.exception_handlers.items() if kind not in {500, Exception}}
    await ExceptionMiddleware(fail, handlers)(scope, receive, send)
