"""Reading what a caller sends, within limits of size, number and time, and noticing when the caller leaves."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from app.errors import BadOption, DeadlineExceeded, ImageTooLarge, Overloaded, SlowSender
from app.service import Service

MOST_FIELDS = 16
"""Text fields a form may have beside its files. None is read, but clients send some."""


@dataclass(frozen=True)
class Upload:
    """What a request brought, and the seconds each image took to arrive."""

    images: Sequence[bytes]
    seconds: float


def service_of(request: Request) -> Service:
    """The service behind this application."""
    service: Service = request.app.state.service
    return service


def deadline_of(request: Request, timeout: float | None) -> float:
    """When the answer has to be there, as a time of `time.perf_counter`: a caller can have it sooner than the setting.

    Counted from the request's head, so that what was spent on a slow upload is spent.
    """
    longest = service_of(request).settings.request_timeout
    started: float = request.state.started
    return started + (longest if timeout is None else min(timeout, longest))


def is_form(request: Request) -> bool:
    """Whether the body is a multipart form rather than the image itself."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"


@contextlib.asynccontextmanager
async def received(request: Request, field: str, most: int, deadline: float) -> AsyncIterator[Upload]:
    """The images of a request: its body itself, or the files of one field of its form, in order.

    Until the block ends they count as held: over all requests, that is bounded.

    Raises:
        BadOption: the form is damaged, has no such file, or more of them than `most`.
        ImageTooLarge: the body is longer than the limit; what follows is not read.
        Overloaded: the bodies of other requests take all the memory there is for bodies.
        SlowSender, DeadlineExceeded: it did not arrive in time.
        ClientDisconnect: the caller left.
    """
    started = time.perf_counter()
    body = Body(request)
    try:
        async with _in_time(request, deadline):
            images = await _files(request, body, field, most) if is_form(request) else [await body.whole()]
        yield Upload(images, (time.perf_counter() - started) / len(images))
    finally:
        body.release()


class Body:
    """The body of one request, counted as it arrives."""

    def __init__(self, request: Request) -> None:
        self._request, self._service = request, service_of(request)
        self._size = 0

    async def whole(self) -> bytes:
        """All of it."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Piece by piece, as long as it is within the limits."""
        announced = self._request.headers.get("content-length", "")
        if announced.isdecimal():
            self._check(int(announced))
        try:
            async for chunk in self._request.stream():
                self._size += len(chunk)
                self._service.uploaded += len(chunk)
                self._check(self._size)
                yield chunk
        except ClientDisconnect:
            self._service.metrics.abandoned.labels("read").inc()
            raise

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


async def _files(request: Request, body: Body, field: str, most: int) -> list[bytes]:
    parser = MultiPartParser(request.headers, body.chunks(), max_files=most, max_fields=MOST_FIELDS)
    parser.spool_max_size = service_of(request).settings.max_body_mib * 2**20  # no file of ours on anybody's disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BadOption(f"The form cannot be read: {error.message}") from error
    except UnicodeError as error:  # the charset that the content type names is one that does not decode
        raise BadOption("The form cannot be read: its charset does not fit its text.") from error
    try:
        return [await file.read() for file in _of_field(form, field)]
    finally:
        await form.close()


def _of_field(form: FormData, field: str) -> list[UploadFile]:
    files = [value for value in form.getlist(field) if isinstance(value, UploadFile)]
    if not files:
        raise BadOption(f"The form has no file in a field named '{field}'.")
    return files


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
        raise SlowSender(f"The body did not arrive in {patience:g} s.") from None


@contextlib.asynccontextmanager
async def while_caller_stays(request: Request) -> AsyncIterator[None]:
    """Cancel what is in the block as soon as the caller has hung up. The body must have been read.

    Raises:
        ClientDisconnect: the caller left; there is nobody to answer.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 (for the type checker: this is a coroutine)
    watch = asyncio.create_task(_cancel_when_left(request, task))
    try:
        yield
    except asyncio.CancelledError:
        if watch.done() and task.uncancel() == 0:  # otherwise somebody else cancels, too
            raise ClientDisconnect from None
        raise
    finally:
        watch.cancel()


async def _cancel_when_left(request: Request, task: asyncio.Task[Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    task.cancel()
