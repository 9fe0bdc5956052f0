"""Errors → RFC 9457 problem documents. One handler for the whole tree of `app.errors`."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from app.errors import (
    Busy,
    HeadTooLarge,
    InternalError,
    MalformedRequest,
    NotSupported,
    ServiceError,
    SlowSender,
    TooManyConnections,
    Unauthorized,
    WrongVersion,
)
from app.metrics import Metrics
from app.schemas import Problem

log = logging.getLogger("swin.request")

MEDIA_TYPE = "application/problem+json"


def problem(error: ServiceError) -> Problem:
    """The document for an error of ours."""
    return Problem(type="about:blank", title=error.title, status=error.status, detail=error.detail, code=error.code)


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
    if issubclass(error, Busy):
        seconds = {"type": "integer", "minimum": 1}
        return {"Retry-After": {"description": "Seconds to wait.", "required": True, "schema": seconds}}
    if issubclass(error, Unauthorized):
        return {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
    return {}


ANYWHERE = documented(
    MalformedRequest,
    Unauthorized,
    SlowSender,
    HeadTooLarge,
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

    async def on_http_error(_: Request, error: HTTPException) -> JSONResponse:  # no such route, no such method
        code = str(error.detail).lower().replace(" ", "_")
        document = Problem(
            type="about:blank", title=str(error.detail), status=error.status_code, detail=str(error.detail), code=code
        )
        return _response(document, dict(error.headers or {}))

    app.exception_handler(ServiceError)(on_service_error)
    app.exception_handler(HTTPException)(on_http_error)


def refusal(error: ServiceError, metrics: Metrics) -> JSONResponse:
    """The answer to a request that ended in this error, which is counted."""
    metrics.rejected.labels(error.code).inc()
    log.debug("refused", extra={"code": error.code}, exc_info=error)
    return problem_response(error)


def problem_response(error: ServiceError) -> JSONResponse:
    """The answer to a request that ended in this error."""
    return _response(problem(error), _headers(error))


def _headers(error: ServiceError) -> dict[str, str] | None:
    if isinstance(error, Busy):
        return {"Retry-After": str(error.retry_after)}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else None


def _response(document: Problem, headers: dict[str, str] | None) -> JSONResponse:
    return JSONResponse(document.model_dump(), document.status, headers, media_type=MEDIA_TYPE)
