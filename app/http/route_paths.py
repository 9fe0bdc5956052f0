"""The paths of the routes, to name the route of a request that no router has seen. Calls no endpoint."""

import re
from collections.abc import Iterable

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute


class RoutePaths:
    """The paths of routes. Paths with parameters are templates, as `/v2/models/{name}`."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._fixed = set[str]()
        self._templates = dict[str, re.Pattern[str]]()
        for context in iter_route_contexts([*routes]):
            if context.param_convertors:
                self._templates[context.path or ""] = context.path_regex
            else:
                self._fixed.add(context.path or "")

    def __contains__(self, path: str) -> bool:
        """Return whether this is the path of a route without parameters."""
        return path in self._fixed

    def template_of(self, path: str) -> str | None:
        """Return the path of the route for a path of a request, or None if no route has it."""
        if path in self._fixed:
            return path
        return next((template for template, pattern in self._templates.items() if pattern.match(path)), None)
