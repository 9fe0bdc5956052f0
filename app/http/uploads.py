"""Reading what a caller sends, within limits of size, number and time, and noticing when the caller leaves."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Self

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.errors import DeadlineExceeded, ImageTooLarge, Overloaded, RequestTimeout, UnsupportedEncoding
from app.http.client_state import ClientState, nothing
from app.http.forms import Form, has_parts
from app.http.parameters import timeout_of
from app.http.request_head import header_of
from app.models.model import Service

IDENTITY = {b"", b"identity"}  # codings that change nothing

MAX_SHOWN = 100  # characters of a header that is repeated in a sentence


class Upload:
    """What a request brought. Within the block it counts as held: over all requests, that is bounded."""

    def __init__(self, images: Sequence[bytes], seconds: float, body: "Body") -> None:
        self.images = images
        self.seconds = seconds  # that each image took to arrive
        self._body = body

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._body.release()


def service_of(request: Request) -> Service:
    """The service behind this application."""
    service: Service = request.app.state.service
    return service


def deadline_of(request: Request) -> float:
    """When the answer has to be there, as a time of `time.perf_counter`: a caller can have it sooner than the setting.

    Counted from the request's head, so that what was spent on a slow upload is spent.

    Raises:
        InvalidParameter: the caller's own limit is none.
    """
    longest, timeout = service_of(request).settings.request_timeout, timeout_of(request)
    started: float = request.state.started
    return started + (longest if timeout is None else min(timeout, longest))


def is_form(request: Request) -> bool:
    """Whether the body is a multipart form rather than the image itself."""
    return has_parts(header_of(request.scope, b"content-type"))


def caller_of(request: Request) -> ClientState:
    """Who asks, if the server says so."""
    caller: ClientState = request.scope["state"].setdefault("client_state", ClientState())
    return caller


async def received(request: Request, field: str, most: int, deadline: float) -> Upload:
    """The images of a request: its body itself, or the files of one field of its form, in order.

    Raises:
        InvalidParameter: the form is damaged, has no such file, or more of them than `most`.
        UnsupportedEncoding: the body is compressed; it is not read.
        ImageTooLarge: the body is longer than the limit; what follows is not read.
        Overloaded: the bodies of other requests take all the memory there is for bodies.
        RequestTimeout, DeadlineExceeded: it did not arrive in time.
        ClientDisconnect: the caller left.
    """
    started = time.perf_counter()
    _refuse_encoded(request)
    body = Body(request)
    try:
        if caller_of(request).is_request_complete:
            images = await _images(request, body, field, most)
        else:
            async with _in_time(request, deadline):
                images = await _images(request, body, field, most)
    except BaseException:
        body.release()
        raise
    return Upload(images, (time.perf_counter() - started) / len(images), body)


def _refuse_encoded(request: Request) -> None:
    for name, value in request.scope["headers"]:
        if name == b"content-encoding" and not IDENTITY.issuperset(value.lower().replace(b" ", b"").split(b",")):
            raise UnsupportedEncoding(
                f"The body has Content-Encoding: {value.decode('latin-1')}. Send it without: image formats are "
                "compressed already."
            )


def hint_for(request: Request) -> str:
    """Return a sentence for a body that is no image: what the request's head says of it, and what to send instead."""
    content_type = header_of(request.scope, b"content-type")
    kind = content_type.partition(";")[0].strip().lower()
    if not kind or kind.startswith("image/") or kind in {"application/octet-stream", "multipart/form-data"}:
        return ""
    if kind == "application/x-www-form-urlencoded":
        return (
            " The request has Content-Type: application/x-www-form-urlencoded. Send the bytes of the image as the "
            "body; with curl: --data-binary @FILE, as -d changes them."
        )
    return (
        f" The request has Content-Type: {kind[:MAX_SHOWN]}. Send the bytes of the image as the body, or as a file in "
        "multipart/form-data."
    )


def content_type_of(request: Request) -> str:
    """Return the Content-Type of a request in words, without its parameters."""
    kind = header_of(request.scope, b"content-type").partition(";")[0].strip()
    return f"Content-Type: {ascii(kind[:MAX_SHOWN])[1:-1]}" if kind else "no Content-Type"


class Body:
    """The body of one request, counted as it arrives."""

    def __init__(self, request: Request) -> None:
        self._request, self._service = request, service_of(request)
        self._size = 0

    async def whole(self) -> bytes:
        """All of it."""
        pieces = [chunk async for chunk in self.chunks()]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Piece by piece, as long as it is within the limits."""
        announced = header_of(self._request.scope, b"content-length")
        if announced.isdecimal():
            self._check(int(announced))
        is_whole = False
        while not is_whole:
            # Not Starlette's `stream`, which takes longer than a small image takes to be decoded.
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                self._service.metrics.cancelled.labels("read").inc()
                raise ClientDisconnect
            is_whole = not message.get("more_body", False)
            if chunk := message.get("body", b""):
                self._size += len(chunk)
                self._service.uploaded += len(chunk)
                self._check(self._size)
                yield chunk

    def release(self) -> None:
        """It is no longer held."""
        self._service.uploaded -= self._size
        self._size = 0

    def _check(self, size: int) -> None:
        settings = self._service.settings
        if size > settings.max_body_mib * 2**20:
            raise ImageTooLarge(f"The body is longer than {settings.max_body_mib} MiB.")
        if self._service.uploaded > settings.max_uploads_mib * 2**20:
            raise Overloaded(1)


async def _images(request: Request, body: Body, field: str, most: int) -> list[bytes]:
    return await _files(request, body, field, most) if is_form(request) else [await body.whole()]


async def _files(request: Request, body: Body, field: str, most: int) -> list[bytes]:
    form = Form(header_of(request.scope, b"content-type"), field, most)
    async for chunk in body.chunks():
        form.feed(chunk)
    return form.images()


@contextlib.asynccontextmanager
async def _in_time(request: Request, deadline: float) -> AsyncIterator[None]:
    patience = service_of(request).settings.body_timeout
    left = deadline - time.perf_counter()
    try:
        async with asyncio.timeout(min(patience, left)):
            yield
    except TimeoutError:
        if left < patience:
            raise DeadlineExceeded from None
        raise RequestTimeout(f"The body did not arrive in {patience:g} s.") from None


@contextlib.contextmanager
def while_caller_stays(request: Request) -> Iterator[None]:
    """Cancel what is in the block as soon as the caller has hung up.

    Raises:
        ClientDisconnect: the caller left; there is nobody to answer.
    """
    caller, task = caller_of(request), asyncio.current_task()
    assert task is not None  # noqa: S101 (for the type checker: this is called from a coroutine)
    if caller.is_disconnected:
        service_of(request).metrics.cancelled.labels("read").inc()
        raise ClientDisconnect
    caller.on_disconnect = task.cancel
    try:
        yield
    except asyncio.CancelledError:
        if caller.is_disconnected and task.uncancel() == 0:  # otherwise somebody else cancels, too
            raise ClientDisconnect from None
        raise
    finally:
        caller.on_disconnect = nothing
