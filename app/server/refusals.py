"""Responses that a connection gives without asking the application: a request that is no HTTP, too late or too much.

Each is a whole response. The connection is closed after it.
"""

import random
from collections.abc import Sequence
from http import HTTPStatus

from app.errors import RetryableError, ServiceError
from app.http.middleware.context import ID_HEADER, USABLE_ID
from app.http.problems import MEDIA_TYPE, problem
from app.server.framing import Fields

# The header fields that a page of another site may read, as the application has them. A test compares both.
EXPOSED = "X-Request-ID, Server-Timing, Retry-After, X-Class-Index"


def request_id(fields: Fields) -> str:
    """Return the id that the client gave, or a new one."""
    for name, value in fields:
        if name == ID_HEADER and USABLE_ID.fullmatch(given := value.decode("latin-1")):
            return given
    return f"{random.getrandbits(128):032x}"  # not secret, and no system call


def response(
    error: ServiceError, identity: str, default_fields: Fields, cors: Sequence[tuple[str, str]], *, has_content: bool
) -> bytes:
    """Return the bytes of a response.

    Args:
        error: what is wrong.
        identity: of the request.
        default_fields: header fields of every response, such as the date.
        cors: what `cors_fields` returns.
        has_content: False for a request with the method HEAD.
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
        fields: header fields of the request, as far as they are known.
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
