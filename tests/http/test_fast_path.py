"""Tests of `app/http/middleware/fast_path.py`: it is used only if FastAPI would just call the endpoint."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route
from starlette.testclient import TestClient

from app.bundle.load import Bundle
from app.http.middleware.context import App, Receive, Scope, Send
from app.http.middleware.fast_path import FastPathMiddleware
from app.http.routes import classify
from app.main import create_app
from app.settings import Settings


class Locked(Exception):
    """An error for which the application has a handler."""


def guard() -> None:
    """A dependency that refuses every request."""
    raise HTTPException(403)


def allow() -> None:
    """A dependency that replaces `guard`."""


async def endpoint(request: Request) -> Response:
    """Return which path the request took."""
    if request.headers.get("x-fail"):
        raise Locked
    return PlainTextResponse("full" if "fastapi_inner_astack" in request.scope else "fast")


async def other(_: Request) -> Response:
    """The endpoint of another route."""
    return PlainTextResponse("other")


class Teapot:
    """A middleware that answers every request."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = PlainTextResponse("teapot")
        await (answer if scope["type"] == "http" else self._app)(scope, receive, send)


class CustomRoute(APIRoute):
    """A route that calls another endpoint than its own."""

    def get_route_handler(self) -> Callable[..., Any]:
        """Return the handler of the route. FastAPI documents this override."""
        return other


def router_of(kind: type[APIRoute] = APIRoute, path: str = "/x", **options: Any) -> APIRouter:
    """Return a router with one route."""
    router = APIRouter(route_class=kind)
    router.add_api_route(path, endpoint, methods=["POST"], **options)
    return router


def application_of(router: APIRouter, include: dict[str, Any] | None = None, **options: Any) -> FastAPI:
    """Return an application with the fast path to the routes of a router."""
    app = FastAPI(**options)
    app.include_router(router, **(include or {}))
    app.add_middleware(FastPathMiddleware, routes=router.routes)
    return app


def path_taken(app: FastAPI, path: str = "/x", **headers: str) -> str:
    """Return the text of the response, or its status if the request fails."""
    answer = TestClient(app, base_url="http://swin").post(path, headers=headers)
    return answer.text if answer.is_success else str(answer.status_code)


def test_a_plain_route_takes_the_fast_path() -> None:
    """A route without dependencies takes the fast path; the tests below rely on that."""
    assert path_taken(application_of(router_of())) == "fast"


def test_a_prefix_is_part_of_the_path() -> None:
    """A route that is included with a prefix is served under the prefix only."""
    app = application_of(router_of(), {"prefix": "/v1"})

    assert [path_taken(app, "/v1/x"), path_taken(app, "/x")] == ["fast", "404"]


def test_a_parameter_of_the_path_reaches_the_endpoint() -> None:
    """A route with a parameter in its path takes the fast path, with the parameter of each request."""

    async def name_of(request: Request) -> Response:
        path = "full" if "fastapi_inner_astack" in request.scope else "fast"
        return PlainTextResponse(f"{path} {request.path_params['name']}")

    router = APIRouter()
    router.add_api_route("/x/{name}", name_of, methods=["POST"])
    app = application_of(router)

    assert [path_taken(app, f"/x/{name}") for name in ("a", "b", "a", "{name}")] == [
        *("fast a", "fast b", "fast a", "fast {name}")
    ]
    assert path_taken(app, "/x/a/b") == "404"


def test_an_earlier_route_wins_over_a_parameter() -> None:
    """A route for one of the paths of a parameter is served if it comes first."""
    router = APIRouter()
    router.add_api_route("/x/special", other, methods=["POST"])
    router.add_api_route("/x/{name}", endpoint, methods=["POST"])
    app = application_of(router)

    assert [path_taken(app, "/x/plain"), path_taken(app, "/x/special")] == ["fast", "other"]


def test_the_paths_of_clients_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit of kept paths, further paths are still served."""
    monkeypatch.setattr("app.http.middleware.fast_path.MAX_ENDPOINTS", 3)
    app = application_of(router_of(path="/x/{name}"))

    assert {path_taken(app, f"/x/{number}") for number in range(9)} == {"fast"}


@pytest.mark.parametrize("place", ["route", "router", "include", "application", "outer router", "later"])
def test_a_dependency_is_never_skipped(place: str) -> None:
    """A dependency runs wherever it is declared, and its override runs in its place."""
    dependencies = [Depends(guard)]
    router = router_of(dependencies=dependencies if place == "route" else None)
    include: dict[str, Any] = {"dependencies": dependencies} if place == "include" else {}
    if place == "router":
        router = APIRouter(dependencies=dependencies)
        router.add_api_route("/x", endpoint, methods=["POST"])
    if place == "later":
        router.routes[0].dependencies.extend(dependencies)  # type: ignore[attr-defined]  # (a route of FastAPI)
    app = application_of(router, include, dependencies=dependencies if place == "application" else None)
    if place == "outer router":
        outer = APIRouter(dependencies=dependencies)
        outer.include_router(router)
        app = FastAPI()
        app.include_router(outer)
        app.add_middleware(FastPathMiddleware, routes=router.routes)
    refused = path_taken(app)
    app.dependency_overrides[guard] = allow

    assert [refused, path_taken(app)] == ["403", "full"]


@pytest.mark.parametrize("route", classify.router.routes, ids=lambda route: f"{min(route.methods)} {route.path}")
@pytest.mark.parametrize("place", ["include", "route"])
def test_routes_of_the_service_skip_no_dependency(route: APIRoute, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dependency that is added to a route or a router of `create_app` runs."""
    if place == "route":
        monkeypatch.setattr(route, "dependencies", [Depends(guard)])
    app = create_app(Settings(device="cpu", threads=1))
    if place == "include":
        app.router.routes.clear()
        app.include_router(classify.router, dependencies=[Depends(guard)])
    with TestClient(app) as client:
        assert client.request(min(route.methods or ()), route.path, content=b"x").status_code == 403


@pytest.mark.parametrize("place", [0, 1])
def test_a_middleware_is_never_skipped(place: int) -> None:
    """A middleware before or after `FastPathMiddleware` still sees every request."""
    app = application_of(router_of())
    app.user_middleware.insert(place, Middleware(Teapot))

    assert path_taken(app) == "teapot"


def test_a_middleware_of_the_router_is_not_skipped() -> None:
    """A middleware of the router, which comes after all others, still sees every request."""
    app = application_of(router_of())
    app.router.middleware_stack = Teapot(app.router.app)

    assert path_taken(app) == "teapot"


@pytest.mark.parametrize(
    "route",
    [
        Route("/x", other, methods=["POST"]),
        Route("/{name}", other, methods=["POST"]),
        APIRoute("/x", other, methods=["POST"], response_class=PlainTextResponse),
        Mount("", routes=[Route("/x", other, methods=["POST"])]),
        Host("swin", app=Route("/x", other, methods=["POST"])),
    ],
    ids=["same path", "pattern", "FastAPI's", "mount", "host"],
)
def test_an_earlier_route_is_chosen(route: Any) -> None:
    """A route that is inserted before the others serves the next request."""
    app = application_of(router_of())
    before = path_taken(app)
    app.router.routes.insert(0, route)

    assert before == "fast"
    assert path_taken(app) == "other"


def test_an_earlier_route_of_the_router_is_chosen() -> None:
    """A route that is inserted into an included router serves the next request."""
    router = router_of()
    app = application_of(router)
    before = path_taken(app)
    router.add_api_route("/x", other, methods=["POST"])
    router.routes.reverse()

    assert [before, path_taken(app)] == ["fast", "other"]


def test_a_custom_route_class_is_not_skipped() -> None:
    """The handler of a custom route class serves the request."""
    assert path_taken(application_of(router_of(CustomRoute))) == "other"


def test_a_body_limit_is_not_skipped() -> None:
    """A route with a body limit of FastAPI, its own or that of its router, takes the full path."""
    for app in (application_of(router_of(max_body_size=1)), application_of(router_of(), {"max_body_size": 1})):
        assert path_taken(app) == "full"


@pytest.mark.parametrize("kind", [Locked, Exception])
def test_errors_go_to_the_application_s_own_handlers(kind: type[Exception]) -> None:
    """The handler of an error class or its base class answers, as without the fast path."""
    app = application_of(router_of())

    @app.exception_handler(kind)
    def on_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, Locked)
        return PlainTextResponse("locked")

    client = TestClient(app, raise_server_exceptions=False)

    assert client.post("/x", headers={"x-fail": "1"}).text == "locked"


def test_the_service_uses_the_fast_path(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to classify images skip the layers of FastAPI, with a prefix and a slash at the end, too."""
    image = (demo.folder / "golden/four.png").read_bytes()
    with TestClient(create_app(Settings(device="cpu", threads=1, root_path="/digits"))) as client:
        monkeypatch.delattr("starlette.middleware.exceptions.ExceptionMiddleware.__call__")
        answers = [
            client.post("/classify", content=image),
            client.post("/digits/classify/", content=image),
            client.put("/classify", content=image),
            client.post("/classify/batch", files={"files": image}),
        ]

    assert [answer.status_code for answer in answers] == [200] * 4
