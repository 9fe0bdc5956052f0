"""The images of a request, read within limits of size, number and time. Knows nothing about image formats.

Also reports a disconnect of the client to the request.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Self

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.errors import DeadlineExceeded, ImageTooLarge, Overloaded, RequestTimeout, UnsupportedEncoding
from app.http.client_state import ClientState, do_nothing
from app.http.decompression import Decompressor, content_codings, decompressor_of
from app.http.forms import Form, has_parts
from app.http.parameters import timeout_of
from app.http.request_head import header_of
from app.models.model import Service
from app.validation_messages import shorten


class Upload:
    """The images of a request, as a context manager.

    Within the block, the body counts towards the setting `max_uploads_mib`, the limit over all
    requests.
    """

    def __init__(self, images: Sequence[bytes], seconds: float, body: "Body") -> None:
        self.images = images
        self.seconds = seconds  # time of arrival for each image
        self._body = body

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._body.release()


def service_of(request: Request) -> Service:
    """Return the service behind the application of the request."""
    service: Service = request.app.state.service
    return service


def deadline_of(request: Request) -> float:
    """Return the deadline of the response, as a time of `time.perf_counter`.

    The time of the upload counts, too. The client can shorten the setting `request_timeout`.

    Raises:
        InvalidParameter: the client's time limit is not valid.
    """
    max_timeout, timeout = service_of(request).settings.request_timeout, timeout_of(request)
    started: float = request.state.started
    return started + (max_timeout if timeout is None else min(timeout, max_timeout))


def is_form(request: Request) -> bool:
    """Return whether the body is a multipart form. Otherwise, the body is the image."""
    return has_parts(header_of(request.scope, b"content-type"))


def client_state_of(request: Request) -> ClientState:
    """Return the state of the client; a state that never changes if the server reports none."""
    client_state: ClientState = request.scope["state"].setdefault("client_state", ClientState())
    return client_state


async def receive_upload(request: Request, fields: Sequence[str], max_images: int, deadline: float) -> Upload:
    """Read the images of a request: its body, or the files of one field of its form in order.

    `fields` are the names that the field can have.

    Raises:
        InvalidParameter: the form is malformed, or has no image or more than `max_images`.
        UnsupportedEncoding: the body is compressed. It is not read.
        ImageTooLarge: the body is longer than `max_body_mib`. Its rest is not read.
        Overloaded: the bodies of all requests together exceed `max_uploads_mib`.
        RequestTimeout: the body did not arrive within `body_timeout`.
        DeadlineExceeded: the body did not arrive before the deadline.
        ClientDisconnect: the client disconnected.
    """
    if codings := content_codings(request.scope):
        raise UnsupportedEncoding(
            f"The body has Content-Encoding: {shorten(', '.join(codings))}. Send the image as it is, because image "
            "formats are compressed already."
        )
    body = Body(request)
    return await _receive(request, body, deadline, lambda: _images(request, body, fields, max_images))


async def receive_body(request: Request, deadline: float) -> Upload:
    """Read the body of a request, compressed or not. The only item of `images` is the body.

    Raises:
        UnsupportedEncoding: the body has another coding than gzip or deflate, or more than one.
        InvalidBody: the compressed body is damaged.
        ImageTooLarge, Overloaded, RequestTimeout, DeadlineExceeded, ClientDisconnect: as `receive_upload`.
            The limits are those of the body after decompression.
    """
    body = Body(request, decompressor_of(content_codings(request.scope)))

    async def read() -> list[bytes]:
        return [await body.read_all()]

    return await _receive(request, body, deadline, read)


async def _receive(
    request: Request, body: "Body", deadline: float, read: Callable[[], Awaitable[Sequence[bytes]]]
) -> Upload:
    started = time.perf_counter()
    try:
        if client_state_of(request).is_request_complete:
            images = await read()
        else:
            async with _time_limit(request, deadline):
                images = await read()
    except BaseException:
        body.release()
        raise
    return Upload(images, (time.perf_counter() - started) / len(images), body)


def hint_for(request: Request) -> str:
    """Return advice for a body that is not an image, if its Content-Type explains the mistake."""
    content_type = header_of(request.scope, b"content-type")
    kind = content_type.partition(";")[0].strip().lower()
    if not kind or kind.startswith("image/") or kind in {"application/octet-stream", "multipart/form-data"}:
        return ""
    if kind == "application/x-www-form-urlencoded":
        return (
            " The request has Content-Type: application/x-www-form-urlencoded. Send the bytes of the image as the "
            "body. With curl, use --data-binary @FILE, because -d changes the bytes."
        )
    return (
        f" The request has Content-Type: {shorten(kind)}. Send the bytes of the image as the body, or as a file in "
        "multipart/form-data."
    )


def content_type_of(request: Request) -> str:
    """Return the Content-Type without its parameters, for an error message."""
    kind = header_of(request.scope, b"content-type").partition(";")[0].strip()
    return f"Content-Type: {shorten(kind)}" if kind else "no Content-Type"


class Body:
    """The body of one request. Its bytes are counted as they arrive, after decompression."""

    def __init__(self, request: Request, decompressor: Decompressor | None = None) -> None:
        self._request, self._service = request, service_of(request)
        self._decompressor = decompressor
        self._size = 0

    async def read_all(self) -> bytes:
        """Return the whole body.

        Raises:
            ImageTooLarge, Overloaded, ClientDisconnect: as `chunks`.
        """
        pieces = [chunk async for chunk in self.chunks()]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of the body.

        Raises:
            InvalidBody: the compressed body is damaged.
            ImageTooLarge: the body is longer than `max_body_mib`.
            Overloaded: the bodies of all requests together exceed `max_uploads_mib`.
            ClientDisconnect: the client disconnected.
        """
        announced = header_of(self._request.scope, b"content-length")
        if announced.isdecimal():
            self._check(int(announced))
        is_complete = False
        while not is_complete:
            # Starlette's `stream` takes more time than the decoding of a small image.
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                self._service.metrics.cancelled.labels("read").inc()
                raise ClientDisconnect
            is_complete = not message.get("more_body", False)
            chunk = message.get("body", b"")
            for piece in (chunk,) if self._decompressor is None else self._decompressor.feed(chunk):
                if piece:
                    self._size += len(piece)
                    self._service.uploaded += len(piece)
                    self._check(self._size)
                    yield piece
        if self._decompressor is not None:
            self._decompressor.check_end()

    def release(self) -> None:
        """Subtract the body from the bytes that all requests hold."""
        self._service.uploaded -= self._size
        self._size = 0

    def _check(self, size: int) -> None:
        settings = self._service.settings
        if size > settings.max_body_mib * 2**20:
            raise ImageTooLarge(f"The body is longer than {settings.max_body_mib} MiB.")
        if self._service.uploaded > settings.max_uploads_mib * 2**20:
            raise Overloaded(1)


async def _images(request: Request, body: Body, fields: Sequence[str], max_images: int) -> list[bytes]:
    return await _files(request, body, fields, max_images) if is_form(request) else [await body.read_all()]


async def _files(request: Request, body: Body, fields: Sequence[str], max_images: int) -> list[bytes]:
    form = Form(header_of(request.scope, b"content-type"), fields, max_images)
    async for chunk in body.chunks():
        form.feed(chunk)
    return form.images()


@contextlib.asynccontextmanager
async def _time_limit(request: Request, deadline: float) -> AsyncIterator[None]:
    body_timeout = service_of(request).settings.body_timeout
    left = deadline - time.perf_counter()
    try:
        async with asyncio.timeout(min(body_timeout, left)):
            yield
    except TimeoutError:
        if left < body_timeout:
            raise DeadlineExceeded from None
        raise RequestTimeout(f"The body did not arrive in {body_timeout:g} s.") from None


@contextlib.contextmanager
def cancel_on_disconnect(request: Request) -> Iterator[None]:
    """Cancel the block as soon as the client disconnects.

    Raises:
        ClientDisconnect: the client disconnected before or in the block.
    """
    client_state, task = client_state_of(request), asyncio.current_task()
    assert task is not None  # noqa: S101 (for the type checker: the caller is a coroutine)
    if client_state.is_disconnected:
        service_of(request).metrics.cancelled.labels("read").inc()
        raise ClientDisconnect
    client_state.on_disconnect = task.cancel
    try:
        yield
    except asyncio.CancelledError:
        if client_state.is_disconnected and task.uncancel() == 0:  # no other component cancels the task, too
            raise ClientDisconnect from None
        raise
    finally:
        client_state.on_disconnect = do_nothing
