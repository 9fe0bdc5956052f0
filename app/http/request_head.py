"""The path and the header fields of a request. Knows nothing about bodies."""

from collections.abc import MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]


def path_of(scope: Scope) -> str:
    """Return the path without the prefix of a proxy, whether or not the proxy strips the prefix."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    return path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path


def header_of(scope: Scope, name: bytes) -> str:
    """Return the first value of a header field, or an empty string. `name` is in lower case."""
    for each, value in scope["headers"]:
        if each == name:
            text: str = value.decode("latin-1")
            return text
    return ""
