"""The head of a request: its path below the prefix of the service, and its headers. Knows nothing about bodies."""

from collections.abc import MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]


def path_of(scope: Scope) -> str:
    """Return the path without the prefix that a proxy in front of the service has, whether or not it strips it."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    return path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path


def header_of(scope: Scope, name: bytes) -> str:
    """Return the first header of this name, which is in lower case; empty if there is none."""
    for each, value in scope["headers"]:
        if each == name:
            text: str = value.decode("latin-1")
            return text
    return ""
