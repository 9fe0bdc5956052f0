"""Refusing, before its body is read, work that would be refused after it."""

from app.errors import ServiceError
from app.http.middleware.context import App, Receive, Scope, Send
from app.http.problems import refusal
from app.http.request_head import header_of
from app.observability.metrics import Metrics


class AdmissionMiddleware:
    """Wraps an ASGI application in which every POST and PUT brings images."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request pass, or refuse it."""
        if scope["type"] == "http" and scope["method"] in {"POST", "PUT"}:
            try:
                scope["app"].state.service.classifier.admit(_size_of_image(scope))
            except ServiceError as error:
                await refusal(error, self._metrics)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _size_of_image(scope: Scope) -> int:
    """Bytes of the body, as announced; 0 where that says little of an image's: of a form, which may hold many."""
    size = header_of(scope, b"content-length")
    is_form = header_of(scope, b"content-type").lower().startswith("multipart/")
    return int(size) if size.isdecimal() and not is_form else 0
