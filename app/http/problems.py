"""Errors as problem documents (RFC 9457). One handler serves the whole tree of `app.errors`.

Knows nothing about images and engines.
"""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

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
from app.http.openapi import MODEL_ERRORS
from app.http.request_head import path_of
from app.http.schemas import Problem, TorchServeError
from app.observability.metrics import Metrics
from app.validation_messages import shorten

log = logging.getLogger("swin.request")

MEDIA_TYPE = "application/problem+json"

# Number of slashes in the paths that the error of an unknown path lists.
MAX_DEPTH_SHOWN = 2

# Paths of protocols on which a problem document is `application/json`. The client of KServe (0.21) reads the sentence
# of an error only with this Content-Type.
JSON_PREFIXES = ("/v1/", "/v2/")

# The paths on which TorchServe's form of errors applies, and its names for errors by status.
TORCHSERVE_PREFIX = "/predictions/"
SERVER = "InternalServerException"
TORCHSERVE_TYPES = {
    404: "ModelNotFoundException",
    405: "MethodNotAllowedException",
    429: "ServiceUnavailableException",
    503: "ServiceUnavailableException",
}


def problem(error: ServiceError) -> Problem:
    """Return the problem document of an error."""
    return _document(error.title, error.status, error.detail, error.code)


def _document(title: str, status: int, detail: str, code: str) -> Problem:
    return Problem(type="about:blank", title=title, status=status, detail=detail, code=code, error=detail)


def documented(*errors: type[ServiceError], media_type: str = MEDIA_TYPE) -> dict[int | str, dict[str, Any]]:
    """Return the responses that a route declares in OpenAPI for these errors."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        entry = by_status.setdefault(error.status, {"description": "", "content": {}})
        entry["description"] = f"{entry['description']} `{error.code}`: {error.title}.".strip()
        entry["content"] = {media_type: {"schema": {"$ref": "#/components/schemas/Problem"}}}
        entry["headers"] = _documented_headers(error)
    return by_status


def _documented_headers(error: type[ServiceError]) -> dict[str, Any]:
    if issubclass(error, RetryableError):
        seconds = {"type": "integer", "minimum": 1}
        return {"Retry-After": {"description": "Seconds to wait.", "required": True, "schema": seconds}}
    if issubclass(error, Unauthorized):
        return {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
    return {}


# Errors that every route can send.
ERRORS_ANYWHERE = (
    MalformedRequest,
    Unauthorized,
    RequestTimeout,
    HeadersTooLarge,
    NotSupported,
    WrongVersion,
    TooManyConnections,
    InternalError,
)
ANYWHERE = documented(*ERRORS_ANYWHERE)


def documented_as_json(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """Return the responses that a route below `JSON_PREFIXES` declares in OpenAPI for these errors."""
    return documented(*errors, media_type=JSONResponse.media_type)


def add_problem_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Make the application answer every error with a problem document, and count refusals."""

    async def on_service_error(_: Request, error: ServiceError) -> JSONResponse:
        return refusal(error, metrics)

    async def on_http_error(request: Request, error: HTTPException) -> Response:  # unknown path or method
        # `OPTIONS *` asks for the methods of the whole server (RFC 9110, section 9.3.7).
        if request.method == "OPTIONS" and request.scope["path"] == "*":
            return Response(status_code=HTTPStatus.NO_CONTENT, headers={"Allow": _methods_anywhere(request)})
        title, detail = HTTPStatus(error.status_code).phrase, str(error.detail)
        headers = dict(error.headers or {})
        if detail == title and error.status_code == HTTPStatus.NOT_FOUND:
            detail = _known_paths(request)
        elif detail == title and error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            methods = _methods_at(request)
            # RFC 9110, section 10.2.1, means all methods of the path. Starlette lists those of one route.
            headers["Allow"] = methods
            detail = f"{path_of(request.scope)} allows {methods}, but not {request.method}."
        document = _document(title, error.status_code, detail, title.lower().replace(" ", "_"))
        return _response(document, headers)

    app.exception_handler(ServiceError)(on_service_error)
    app.exception_handler(HTTPException)(on_http_error)


def _known_paths(request: Request) -> str:
    contexts = iter_route_contexts(request.app.routes)
    paths = dict.fromkeys(context.path or "" for context in contexts if context.include_in_schema)
    shown = [each for each in paths if "{" not in each and each.count("/") <= MAX_DEPTH_SHOWN]
    path = path_of(request.scope)
    folder = path.rpartition("/")[0]
    if request.method == "PUT" and folder in paths:
        return (
            f"There is nothing at {shorten(path)}; send the image to {folder}. curl -T adds the name of the file to "
            "a URL that ends in a slash."
        )
    return f"There is nothing at {shorten(path)}. The paths include {', '.join(shown)}; /docs lists all."


def _methods_at(request: Request) -> str:
    """Return the methods of all routes that serve the path of the request."""
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
    """Return the response to a request that ended in this error, and count the error."""
    metrics.rejected.labels(error.code).inc()
    log.debug("refused", extra={"code": error.code}, exc_info=error)
    return problem_response(error)


def problem_response(error: ServiceError) -> JSONResponse:
    """Return the response to a request that ended in this error."""
    return _response(problem(error), _headers(error))


def _headers(error: ServiceError) -> dict[str, str] | None:
    if isinstance(error, RetryableError):
        return {"Retry-After": str(error.retry_after)}
    if isinstance(error, UnsupportedEncoding):
        return {"Accept-Encoding": error.accepted}  # the accepted codings (RFC 9110, section 15.5.16)
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else None


def _response(document: Problem, headers: dict[str, str] | None) -> JSONResponse:
    return ErrorResponse(document, headers)


class ErrorResponse(JSONResponse):
    """A problem document. On the paths of some protocols, in the form that their clients expect."""

    def __init__(self, document: Problem, headers: dict[str, str] | None) -> None:
        super().__init__(document.model_dump(), document.status, headers, media_type=MEDIA_TYPE)
        self._document, self._extra_headers = document, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        path, status = path_of(scope), self._document.status
        if path.startswith(TORCHSERVE_PREFIX):
            body = {"code": status, "type": torchserve_type(status), "message": self._document.detail}
            await JSONResponse(body, status, self._extra_headers)(scope, receive, send)
        elif f"{path}/".startswith(JSON_PREFIXES):
            await JSONResponse(self._document.model_dump(), status, self._extra_headers)(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def torchserve_type(status: int) -> str:
    """Return the name that TorchServe gives to an error of this status."""
    return TORCHSERVE_TYPES.get(status, "BadRequestException" if status < HTTPStatus.INTERNAL_SERVER_ERROR else SERVER)


def torchserve_errors() -> dict[int | str, dict[str, Any]]:
    """Return the responses that a route of TorchServe declares in OpenAPI.

    An error before the path is known is a problem document.
    """
    responses = documented(*MODEL_ERRORS, *ERRORS_ANYWHERE)
    for response in responses.values():
        response["content"] = response["content"] | {
            "application/json": {"schema": TorchServeError.model_json_schema()}
        }
    return responses
