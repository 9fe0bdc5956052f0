"""Admission of images before their bodies are read. Knows no queue: the classifier decides."""

from collections.abc import Callable

from app.errors import ServiceError
from app.http.middleware.context import App, Receive, Scope, Send
from app.http.problems import refusal
from app.http.request_head import header_of, path_of
from app.observability.metrics import Metrics


class AdmissionMiddleware:
    """ASGI middleware for an application in which every POST and PUT request carries images, except on some paths."""

    def __init__(self, app: App, metrics: Metrics, carries_no_image: Callable[[str], bool]) -> None:
        self._app, self._metrics, self._carries_no_image = app, metrics, carries_no_image

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["method"] in {"POST", "PUT"}
            and not self._carries_no_image(path_of(scope))
        ):
            try:
                scope["app"].state.service.classifier.admit(_image_size(scope))
            except ServiceError as error:
                await refusal(error, self._metrics)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _image_size(scope: Scope) -> int:
    """Return the Content-Length in bytes, or 0 for a form, which can hold many images."""
    size = header_of(scope, b"content-length")
    is_form = header_of(scope, b"content-type").lower().startswith("multipart/")
    return int(size) if size.isdecimal() and not is_form else 0
