"""A fast path to endpoints that skips the layers of FastAPI. Knows no endpoint.

For a small image, these layers take as much time as the classification. `FastPathMiddleware`
describes which requests take the fast path.
"""

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute

from app.http.middleware.context import App, Receive, Scope, Send
from app.http.request_head import path_of

# Types of routes that match by method and path only.
ROUTES_BY_PATH = {APIRoute, Mount, Route, WebSocketRoute}


# Limit of paths with parameters for which the endpoint is kept. The paths are written by clients.
MAX_ENDPOINTS = 1000


class Endpoint(NamedTuple):
    """A route with its endpoint, and the parameters in the path of a request."""

    route: BaseRoute
    dependant: Any  # the Dependant of FastAPI, with a coroutine function
    path_parameters: dict[str, str]


class FastPathMiddleware:
    """ASGI middleware, the innermost one, that calls endpoints directly.

    A request takes the fast path if FastAPI would choose the same route and then only call the
    endpoint with the request. It does not if another middleware comes between, if another route
    matches first, or if the route, a router or the application has a dependency. Errors go to the
    error handlers of the application.

    Args:
        app: the next ASGI application, which serves all other requests.
        routes: routes for the fast path. Their endpoints take only the request, and read
            parameters of the path from `request.path_params`.
    """

    def __init__(self, app: App, routes: Iterable[BaseRoute]) -> None:
        self._app = app
        self._routes = [route for route in routes if type(route) is APIRoute]  # a subclass can do more
        self._is_innermost = isinstance(app, ExceptionMiddleware)
        self._endpoints = dict[tuple[str, str], Endpoint]()  # by method and path
        self._with_parameters = list[RouteContext]()  # candidates with parameters in their paths
        self._contexts = list[RouteContext]()
        self._route_lists = list[tuple[list[BaseRoute], list[BaseRoute]]]()  # each list, and a copy from the last scan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoint_of(scope) if self._is_innermost and scope["type"] == "http" else None
        if endpoint is None or endpoint.dependant.dependencies:
            await self._app(scope, receive, send)
            return
        scope["route"], dependant, scope["path_params"] = endpoint
        try:
            response = await dependant.call(**{dependant.request_param_name: Request(scope, receive)})
        except Exception as error:  # noqa: BLE001 (the application's handlers answer it, or it is raised again)
            await _handle(error, scope, receive, send)
            return
        await response(scope, receive, send)

    def _endpoint_of(self, scope: Scope) -> Endpoint | None:
        """Return the endpoint of a request, or None if FastAPI must serve the request."""
        app: FastAPI = scope["app"]
        if not self._route_lists or self._route_lists[0][0] is not app.router.routes:
            self._scan_routes(app)
        for routes, scanned in self._route_lists:
            if routes != scanned:
                self._scan_routes(app)
                break
        method, path = scope["method"], path_of(scope)
        return self._endpoints.get((method, path)) or self._match_parameters(method, path)

    def _match_parameters(self, method: str, path: str) -> Endpoint | None:
        """Find the endpoint of a path with parameters, and keep it for the next request with this path."""
        for context in self._with_parameters:
            if method in (context.methods or ()) and context.path_regex.match(path):
                endpoint = _first_endpoint(context, method, path, self._contexts)
                if endpoint is not None and len(self._endpoints) < MAX_ENDPOINTS:
                    self._endpoints[method, path] = endpoint
                return endpoint
        return None

    def _scan_routes(self, app: FastAPI) -> None:
        self._route_lists = [(routes, list(routes)) for routes in _route_lists_in(app.router.routes)]
        self._contexts = contexts = [*iter_route_contexts(app.router.routes)]
        candidates = [
            context for context in contexts if context.original_route in self._routes and _takes_only_request(context)
        ]
        # A middleware of the router itself would run between this middleware and the endpoint.
        if app.router.middleware_stack != app.router.app:
            candidates = []
        self._with_parameters = [context for context in candidates if context.param_convertors]
        self._endpoints = {
            (method, context.path or ""): endpoint
            for context in candidates
            for method in context.methods or ()
            if (endpoint := _first_endpoint(context, method, context.path or "", contexts))
        }


def _route_lists_in(routes: list[BaseRoute]) -> list[list[BaseRoute]]:
    """Return this list and the lists of the routers that it includes."""
    included = [route.original_router.routes for route in routes if hasattr(route, "original_router")]
    return [routes, *(each for inner in included for each in _route_lists_in(inner))]


def _takes_only_request(context: RouteContext) -> bool:
    """Return whether the endpoint takes only the request, and FastAPI checks no body limit before it."""
    dependant = context.dependant
    parameters = (dependant.path_params, dependant.query_params, dependant.header_params, dependant.cookie_params)
    return (
        inspect.iscoroutinefunction(dependant.call)
        and bool(dependant.request_param_name)
        and not any(parameters)
        and context.body_field is None
        and context.max_body_size is None
    )


def _first_endpoint(context: RouteContext, method: str, path: str, contexts: Iterable[RouteContext]) -> Endpoint | None:
    """Return the endpoint of this route if it is the first one that matches a method and a path, else None."""
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "headers": []}
    for each in contexts:
        if type(each.original_route) not in ROUTES_BY_PATH:
            return None
        match, child = each.matches(scope)
        if match is Match.FULL:
            parameters = child.get("path_params", {})
            return Endpoint(context.original_route, context.dependant, parameters) if each is context else None
    return None


async def _handle(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Call the error handler of the application for this error. Raise the error again if it has none."""

    async def fail(*_: object) -> None:
        raise error

    app: FastAPI = scope["app"]
    handlers = {kind: handler for kind, handler in app.exception_handlers.items() if kind not in {500, Exception}}
    await ExceptionMiddleware(fail, handlers)(scope, receive, send)
