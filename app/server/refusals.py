"""Responses that a connection sends without the application.

They refuse requests that are not valid HTTP, or that exceed a limit of time, size or number. The
connection is closed after each of them. Knows no sockets.
"""

from collections.abc import Sequence
from http import HTTPStatus

from app.errors import RetryableError, ServiceError
from app.http.middleware.context import ID_HEADER
from app.http.problems import MEDIA_TYPE, problem
from app.protocols.request_identity import USABLE_ID, new_id
from app.server.framing import Fields

# The header fields that a page of another site may read. The CORS middleware of the application
# exposes the same fields; a test compares both.
EXPOSED = "X-Request-ID, Server-Timing, Retry-After, X-Class-Index, X-Image-Region, Inference-Header-Content-Length"


def request_id(fields: Fields) -> str:
    """Return the request ID that the client sent, or a new one."""
    for name, value in fields:
        if name == ID_HEADER and USABLE_ID.fullmatch(given := value.decode("latin-1")):
            return given
    return new_id()


def response(
    error: ServiceError, identity: str, default_fields: Fields, cors: Sequence[tuple[str, str]], *, has_content: bool
) -> bytes:
    """Return the bytes of a response that refuses a request.

    Args:
        error: the reason for the refusal.
        identity: the request ID.
        default_fields: header fields of every response, such as the date.
        cors: the result of `cors_fields`.
        has_content: False for a HEAD request.
    """
    content = problem(error).model_dump_json().encode()
    lines = [
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
        *(f"{name.decode('latin-1')}: {value.decode('latin-1')}" for name, value in default_fields),
        *([f"Retry-After: {error.retry_after}"] if isinstance(error, RetryableError) else []),
        *(f"{name}: {value}" for name, value in cors),
        f"X-Request-ID: {identity}",
        "Connection: close",
        f"Content-Type: {MEDIA_TYPE}",
        f"Content-Length: {len(content)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (content if has_content else b"")


def cors_fields(origins: Sequence[str], fields: Fields) -> list[tuple[str, str]]:
    """Return the header fields with which a browser lets a page of another site read the response.

    Args:
        origins: the setting `cors_origins`.
        fields: the header fields of the request that are known so far.
    """
    if "*" in origins:
        return [("Access-Control-Allow-Origin", "*"), ("Access-Control-Expose-Headers", EXPOSED)]
    given = next((value.decode("latin-1") for name, value in fields if name == b"origin"), None)
    if given not in origins:
        return [("Vary", "Origin")] if origins else []
    return [
        ("Access-Control-Allow-Origin", str(given)),
        ("Access-Control-Expose-Headers", EXPOSED),
        ("Vary", "Origin"),
    ]
