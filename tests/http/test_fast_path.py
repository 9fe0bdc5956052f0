"""`app/http/middleware/fast_path.py`: the short way is taken only where the framework would do nothing else."""

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
    """What an application knows how to answer."""


def guard() -> None:
    """A dependency that lets no request pass."""
    raise HTTPException(403)


def nothing() -> None:
    """What a test puts in its place."""


async def endpoint(request: Request) -> Response:
    """Tells which way the request took."""
    if request.headers.get("x-fail"):
        raise Locked
    return PlainTextResponse("full" if "fastapi_inner_astack" in request.scope else "short")


async def other(_: Request) -> Response:
    """Another route's."""
    return PlainTextResponse("other")


class Teapot:
    """A middleware that answers everything."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """InferenceResult."""
        answer = PlainTextResponse("teapot")
        await (answer if scope["type"] == "http" else self._app)(scope, receive, send)


class Careful(APIRoute):
    """A route that does more than to call its endpoint."""

    def get_route_handler(self) -> Callable[..., Any]:
        """Return what FastAPI calls: the documented way to put something in front of an endpoint."""
        return other


def router_of(kind: type[APIRoute] = APIRoute, path: str = "/x", **options: Any) -> APIRouter:
    """A router with one route."""
    router = APIRouter(route_class=kind)
    router.add_api_route(path, endpoint, methods=["POST"], **options)
    return router


def application_of(router: APIRouter, include: dict[str, Any] | None = None, **options: Any) -> FastAPI:
    """An application with the short way to the routes of a router."""
    app = FastAPI(**options)
    app.include_router(router, **(include or {}))
    app.add_middleware(FastPathMiddleware, routes=router.routes)
    return app


def way(app: FastAPI, path: str = "/x", **headers: str) -> str:
    """What is answered, or the status if that is none of success."""
    answer = TestClient(app, base_url="http://swin").post(path, headers=headers)
    return answer.text if answer.is_success else str(answer.status_code)


def test_the_short_way_is_taken() -> None:
    """Where nothing is in it: otherwise, the tests below would hold of a way that does not exist."""
    assert way(application_of(router_of())) == "short"


def test_a_prefix_is_part_of_the_way() -> None:
    """The route is where it was included."""
    app = application_of(router_of(), {"prefix": "/v1"})

    assert [way(app, "/v1/x"), way(app, "/x")] == ["short", "404"]


@pytest.mark.parametrize("place", ["route", "router", "include", "application", "outer router", "later"])
def test_a_dependency_is_never_skipped(place: str) -> None:
    """Wherever FastAPI lets it be declared; and what a test overrides is overridden."""
    dependencies = [Depends(guard)]
    router = router_of(dependencies=dependencies if place == "route" else None)
    include: dict[str, Any] = {"dependencies": dependencies} if place == "include" else {}
    if place == "router":
        router = APIRouter(dependencies=dependencies)
        router.add_api_route("/x", endpoint, methods=["POST"])
    if place == "later":
        router.routes[0].dependencies.extend(dependencies)  # type: ignore[attr-defined]  # (it is one of FastAPI's)
    app = application_of(router, include, dependencies=dependencies if place == "application" else None)
    if place == "outer router":
        outer = APIRouter(dependencies=dependencies)
        outer.include_router(router)
        app = FastAPI()
        app.include_router(outer)
        app.add_middleware(FastPathMiddleware, routes=router.routes)
    refused = way(app)
    app.dependency_overrides[guard] = nothing

    assert [refused, way(app)] == ["403", "full"]


@pytest.mark.parametrize("route", classify.router.routes, ids=lambda route: f"{min(route.methods)} {route.path}")
@pytest.mark.parametrize("place", ["include", "route"])
def test_the_service_s_own_routes_skip_none(route: APIRoute, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `create_app` builds it, and with a dependency added to a route or to where the router is included."""
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
    """Around ours, and within it: the innermost place is then another's."""
    app = application_of(router_of())
    app.user_middleware.insert(place, Middleware(Teapot))

    assert way(app) == "teapot"


def test_what_wraps_the_router_is_not_skipped() -> None:
    """It comes after all middleware."""
    app = application_of(router_of())
    app.router.middleware_stack = Teapot(app.router.app)

    assert way(app) == "teapot"


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
def test_a_route_that_comes_first_is_first(route: Any) -> None:
    """Also if it is added while requests are served."""
    app = application_of(router_of())
    before = way(app)
    app.router.routes.insert(0, route)

    assert before == "short"
    assert way(app) == "other"


def test_a_route_added_to_the_router_is_first_there_too() -> None:
    """FastAPI looks at what is included as it is now."""
    router = router_of()
    app = application_of(router)
    before = way(app)
    router.add_api_route("/x", other, methods=["POST"])
    router.routes.reverse()

    assert [before, way(app)] == ["short", "other"]


def test_a_route_class_of_its_own_is_not_skipped() -> None:
    """It says what handles the request."""
    assert way(application_of(router_of(Careful))) == "other"


def test_a_limit_of_the_body_is_not_skipped() -> None:
    """FastAPI's own, of a route or of where it is included."""
    for app in (application_of(router_of(max_body_size=1)), application_of(router_of(), {"max_body_size": 1})):
        assert way(app) == "full"


@pytest.mark.parametrize("kind", [Locked, Exception])
def test_errors_go_to_the_application_s_own_handlers(kind: type[Exception]) -> None:
    """They are looked up as FastAPI does; what is not known ends where it always ends."""
    app = application_of(router_of())

    @app.exception_handler(kind)
    def on_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, Locked)
        return PlainTextResponse("locked")

    client = TestClient(app, raise_server_exceptions=False)

    assert client.post("/x", headers={"x-fail": "1"}).text == "locked"


def test_the_service_takes_the_short_way(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small image costs what it costs, not what FastAPI's layers cost."""
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
