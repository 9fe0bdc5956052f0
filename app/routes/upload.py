"""Reading what a caller sends, within limits, and noticing when the caller leaves."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import TypeVar

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from app.errors import BadOption, ImageTooLarge
from app.service import Service

T = TypeVar("T")

MOST_FIELDS = 16
"""Text fields a form may have beside its files. None is read, but clients send some."""


def service_of(request: Request) -> Service:
    """The service behind this application."""
    service: Service = request.app.state.service
    return service


def is_form(request: Request) -> bool:
    """Whether the body is a multipart form rather than the image itself."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"


async def read_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        ImageTooLarge: it is longer than the limit; what follows is not read.
    """
    return b"".join([chunk async for chunk in _within_limit(request)])


@contextlib.asynccontextmanager
async def read_form(request: Request, field: str, most: int) -> AsyncIterator[list[UploadFile]]:
    """The files of one form field, in order.

    Raises:
        BadOption: the form is damaged, has no such file, or more of them than `most`.
        ImageTooLarge: the form is longer than the limit.
    """
    parser = MultiPartParser(request.headers, _within_limit(request), max_files=most, max_fields=MOST_FIELDS)
    parser.spool_max_size = _limit(request)  # in memory: no file of ours on anybody's disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BadOption(f"The form cannot be read: {error.message}") from error
    except UnicodeError as error:  # the charset that the content type names is one that does not decode
        raise BadOption("The form cannot be read: its charset does not fit its text.") from error
    try:
        yield _files(form, field)
    finally:
        await form.close()


def _files(form: FormData, field: str) -> list[UploadFile]:
    files = [value for value in form.getlist(field) if isinstance(value, UploadFile)]
    if not files:
        raise BadOption(f"The form has no file in a field named '{field}'.")
    return files


def _limit(request: Request) -> int:
    """Bytes a body may have."""
    return service_of(request).settings.max_body_mib * 2**20


async def _within_limit(request: Request) -> AsyncGenerator[bytes, None]:
    limit = _limit(request)
    too_large = ImageTooLarge(f"The body is longer than {limit} bytes.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    read = 0
    async for chunk in request.stream():
        read += len(chunk)
        if read > limit:
            raise too_large
        yield chunk


async def unless_caller_leaves(request: Request, work: Awaitable[T]) -> T:
    """Do the work, or cancel it as soon as the caller has hung up. The body must have been read.

    Raises:
        ClientDisconnect: the caller left; there is nobody to answer.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        watch.cancel()
        task.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
