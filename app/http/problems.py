"""Errors → RFC 9457 problem documents. One handler for the whole tree of `app.errors`."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from app.errors import (
    HeadersTooLarge,
    InternalError,
    MalformedRequest,
    NotSupported,
    RequestTimeout,
    RetryableError,
    ServiceError,
    TooManyConnections,
    Unauthorized,
    UnsupportedEncoding,
    WrongVersion,
)
from app.http.request_head import path_of
from app.http.schemas import Problem
from app.observability.metrics import Metrics

log = logging.getLogger("swin.request")

MEDIA_TYPE = "application/problem+json"

MAX_SHOWN = 200  # characters of a path that is repeated in a sentence


def problem(error: ServiceError) -> Problem:
    """The document for an error of ours."""
    return _document(error.title, error.status, error.detail, error.code)


def _document(title: str, status: int, detail: str, code: str) -> Problem:
    return Problem(type="about:blank", title=title, status=status, detail=detail, code=code, error=detail)


def documented(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """What a route declares in OpenAPI for the errors it may answer with."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        entry = by_status.setdefault(error.status, {"description": "", "content": {}})
        entry["description"] = f"{entry['description']} `{error.code}`: {error.title}.".strip()
        entry["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        entry["headers"] = _documented_headers(error)
    return by_status


def _documented_headers(error: type[ServiceError]) -> dict[str, Any]:
    if issubclass(error, RetryableError):
        seconds = {"type": "integer", "minimum": 1}
        return {"Retry-After": {"description": "Seconds to wait.", "required": True, "schema": seconds}}
    if issubclass(error, Unauthorized):
        return {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
    return {}


ANYWHERE = documented(
    MalformedRequest,
    Unauthorized,
    RequestTimeout,
    HeadersTooLarge,
    NotSupported,
    WrongVersion,
    TooManyConnections,
    InternalError,
)
"""What every route may answer with."""


def add_problem_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Make every error leave as a problem document, and count the refusals."""

    async def on_service_error(_: Request, error: ServiceError) -> JSONResponse:
        return refusal(error, metrics)

    async def on_http_error(request: Request, error: HTTPException) -> Response:  # no such route, no such method
        if request.method == "OPTIONS" and request.scope["path"] == "*":  # of all of the server (RFC 9110, 9.3.7)
            return Response(status_code=HTTPStatus.NO_CONTENT, headers={"Allow": _methods_anywhere(request)})
        title, detail = HTTPStatus(error.status_code).phrase, str(error.detail)
        headers = dict(error.headers or {})
        if detail == title and error.status_code == HTTPStatus.NOT_FOUND:
            detail = _what_is_there(request)
        elif detail == title and error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            methods = _methods_at(request)
            headers["Allow"] = methods  # Starlette knows those of one route; RFC 9110, 10.2.1, means all of a path's
            detail = f"{path_of(request.scope)} takes {methods}; {request.method} is not among them."
        document = _document(title, error.status_code, detail, title.lower().replace(" ", "_"))
        return _response(document, headers)

    app.exception_handler(ServiceError)(on_service_error)
    app.exception_handler(HTTPException)(on_http_error)


def _what_is_there(request: Request) -> str:
    contexts = iter_route_contexts(request.app.routes)
    paths = dict.fromkeys(context.path or "" for context in contexts if context.include_in_schema)
    path = path_of(request.scope)
    folder = path.rpartition("/")[0]
    if request.method == "PUT" and folder in paths:
        return (
            f"There is nothing at {path[:MAX_SHOWN]}; send the image to {folder}. curl -T adds the name of the file to "
            "a URL that ends in a slash."
        )
    return f"There is nothing at {path[:MAX_SHOWN]}. The paths are {', '.join(paths)}; /docs describes them."


def _methods_at(request: Request) -> str:
    """Return the methods of all routes for the request's path."""
    methods = dict[str, None]()
    for context in iter_route_contexts(request.app.routes):
        if context.matches(request.scope)[0] is not Match.NONE:
            methods |= dict.fromkeys(sorted(context.methods or ()))
    return ", ".join(methods)


def _methods_anywhere(request: Request) -> str:
    """Return the methods of all routes, and OPTIONS."""
    methods = {method for context in iter_route_contexts(request.app.routes) for method in context.methods or ()}
    return ", ".join(sorted({*methods, "OPTIONS"}))


def refusal(error: ServiceError, metrics: Metrics) -> JSONResponse:
    """The answer to a request that ended in this error, which is counted."""
    metrics.rejected.labels(error.code).inc()
    log.debug("refused", extra={"code": error.code}, exc_info=error)
    return problem_response(error)


def problem_response(error: ServiceError) -> JSONResponse:
    """The answer to a request that ended in this error."""
    return _response(problem(error), _headers(error))


def _headers(error: ServiceError) -> dict[str, str] | None:
    if isinstance(error, RetryableError):
        return {"Retry-After": str(error.retry_after)}
    if isinstance(error, UnsupportedEncoding):
        return {"Accept-Encoding": "identity"}  # RFC 9110, 15.5.16: what would have been accepted
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else None


def _response(document: Problem, headers: dict[str, str] | None) -> JSONResponse:
    return JSONResponse(document.model_dump(), document.status, headers, media_type=MEDIA_TYPE)
