"""The name and the attributes of a call's span, by the semantic conventions of OpenTelemetry for gRPC.

https://opentelemetry.io/docs/specs/semconv/rpc/grpc/
"""

from grpc import StatusCode

SYSTEM = "grpc"

# The value of `rpc.method` for an RPC that the service does not have: each name of a client would be another value.
OTHER = "_OTHER"

# The statuses with which the span of a server is an error. The others tell of the client.
FAILURES = {
    StatusCode.UNKNOWN,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.UNIMPLEMENTED,
    StatusCode.INTERNAL,
    StatusCode.UNAVAILABLE,
    StatusCode.DATA_LOSS,
}


def name_of(route: str) -> str:
    """Return the full name of the RPC, or the name of the system if the service does not have the RPC."""
    return route.removeprefix("/") if _method(route) else SYSTEM


def attributes_of(route: str, client: str, status: StatusCode) -> dict[str, str | int]:
    """Return the attributes of a call that has ended."""
    attributes: dict[str, str | int] = {
        "rpc.system": SYSTEM,
        "rpc.method": _method(route) or OTHER,
        "rpc.grpc.status_code": status.value[0],
        "client.address": client,
    }
    if _method(route):
        attributes["rpc.service"] = route.removeprefix("/").rpartition("/")[0]
    if status in FAILURES:
        attributes["error.type"] = status.name
    return attributes


def _method(route: str) -> str:
    """Return the name of the RPC without that of its service, or nothing for a route that is no RPC."""
    return route.rpartition("/")[2] if route.startswith("/") else ""
