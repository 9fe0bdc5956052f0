"""The name and the attributes of a request's span, by the HTTP semantic conventions of OpenTelemetry.

https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from collections.abc import MutableMapping
from http import HTTPMethod, HTTPStatus
from typing import Any

Scope = MutableMapping[str, Any]

# The value of `http.request.method` for a method that no RFC defines: each one of a client would be another value.
OTHER = "_OTHER"

# The value of `error.type` if the client disconnected before the response was complete.
DISCONNECTED = "client_disconnected"


def name_of(scope: Scope, route: str | None) -> str:
    """Return the method and the path of the route, or the method alone if no route has the path of the request."""
    method = _method(scope)
    return " ".join(filter(None, ("HTTP" if method == OTHER else method, route)))


def attributes_of(scope: Scope, route: str | None, path: str, status: int | None) -> dict[str, str | int]:
    """Return the attributes of an answered request, or of one whose client disconnected if `status` is None.

    `route` is the path of the route; `path` is the path in the request, before any change by the service.
    """
    attributes: dict[str, str | int] = {
        "http.request.method": _method(scope),
        "url.path": path,
        "url.scheme": scope.get("scheme", "http"),
    }
    if attributes["http.request.method"] == OTHER:
        attributes["http.request.method_original"] = scope["method"]
    if route:
        attributes["http.route"] = route
    if client := scope.get("client"):
        attributes["client.address"] = client[0]
    if status is None:
        attributes["error.type"] = DISCONNECTED
    else:
        attributes["http.response.status_code"] = status
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            attributes["error.type"] = str(status)
    return attributes


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in HTTPMethod.__members__ else OTHER
