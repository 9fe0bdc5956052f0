"""The client for asyncio."""

import asyncio
import contextlib
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Literal, Self, TypeVar, overload

import httpx

from swin_client.calls import AHEAD, Caller
from swin_client.errors import SwinError
from swin_client.exchange import CUT_OFF_SECONDS, Answer, Reception
from swin_client.images import ImageSource
from swin_client.options import OnError, Service, check_many, classify_parameters, http_options
from swin_client.results import Classification, EvidencePicture

T = TypeVar("T")
R = TypeVar("R")


class AsyncClient:
    """A client of one service. It keeps connections open, so use one for all calls of an event loop.

    Example::

        async with AsyncClient("http://localhost:8000") as client:
            best = (await client.classify("photo.jpg")).best

    Arguments and errors are those of `Client`.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 30,
        max_retries: int | None = None,
        max_connections: int = 100,
        max_download_bytes: int = 32 * 2**20,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._service = Service(url, api_key, timeout, max_retries, max_download_bytes)
        self._http = httpx.AsyncClient(**http_options(max_connections, ssl_context))
        self._caller = Caller(self._service, AsyncIO(self._http))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._service.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections. Calls in progress fail."""
        await self._http.aclose()

    async def classify(
        self,
        image: ImageSource,
        top_k: int | None = None,
        *,
        evidence: bool = False,
        embedding: bool = False,
        timeout: float | None = None,
    ) -> Classification:
        """Return the best classes of an image. Files and images of Pillow are read in a thread.

        Arguments and errors are those of `Client.classify`.
        """
        parameters = classify_parameters(top_k, evidence=evidence, embedding=embedding)
        return await self._caller.classify(image, parameters, timeout)

    async def draw_evidence(
        self,
        image: ImageSource,
        index: int | None = None,
        *,
        timeout: float | None = None,
    ) -> EvidencePicture:
        """Return a picture of the evidence for the class of this index, or for the best one.

        Raises:
            SwinError: as `classify`.
        """
        return await self._caller.draw_evidence(image, index, timeout)

    @overload
    def classify_many(
        self,
        images: Iterable[ImageSource] | AsyncIterable[ImageSource],
        top_k: int | None = None,
        *,
        evidence: bool = False,
        embedding: bool = False,
        timeout: float | None = None,
        concurrency: int = 8,
        on_error: Literal["raise"] = "raise",
    ) -> AsyncGenerator[Classification, None]: ...

    @overload
    def classify_many(
        self,
        images: Iterable[ImageSource] | AsyncIterable[ImageSource],
        top_k: int | None = None,
        *,
        evidence: bool = False,
        embedding: bool = False,
        timeout: float | None = None,
        concurrency: int = 8,
        on_error: Literal["return"],
    ) -> AsyncGenerator[Classification | SwinError, None]: ...

    def classify_many(
        self,
        images: Iterable[ImageSource] | AsyncIterable[ImageSource],
        top_k: int | None = None,
        *,
        evidence: bool = False,
        embedding: bool = False,
        timeout: float | None = None,
        concurrency: int = 8,
        on_error: OnError = "raise",
    ) -> AsyncGenerator[Classification, None] | AsyncGenerator[Classification | SwinError, None]:
        """Yield the result of each image, in the order of the images.

        Arguments and errors are those of `Client.classify_many`; `images` can be an asynchronous iterable,
        too. To stop early, use `contextlib.aclosing`: requests in progress are then cancelled.
        """
        check_many(timeout, concurrency, on_error)
        parameters = classify_parameters(top_k, evidence=evidence, embedding=embedding)

        def classify(image: ImageSource) -> Coroutine[None, None, Classification | SwinError]:
            return self._caller.outcome(image, parameters, timeout, on_error)

        return in_order(classify, images, concurrency)


async def in_order(
    work: Callable[[T], Coroutine[None, None, R]], items: Iterable[T] | AsyncIterable[T], concurrency: int
) -> AsyncGenerator[R, None]:
    """Yield the result for each item in order. At the end, also an early one, cancel the tasks that are left."""
    free = asyncio.Semaphore(concurrency)
    running = deque[asyncio.Task[R]]()

    async def limited(item: T) -> R:
        async with free:
            return await work(item)

    try:
        async for item in _each(items):
            running.append(asyncio.create_task(limited(item)))
            while running and (running[0].done() or len(running) >= AHEAD * concurrency):
                yield await running[0]
                running.popleft()
        while running:
            yield await running[0]
            running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


class AsyncIO:
    """`IO` on the running event loop of asyncio."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def run(self, function: Callable[[], T]) -> T:
        return await asyncio.to_thread(function)

    async def send(self, request: httpx.Request, reception: Reception) -> Answer:
        try:
            async with asyncio.timeout(reception.deadline.left() + CUT_OFF_SECONDS):
                return await self._receive(request, reception)
        except TimeoutError:
            raise reception.deadline.exceeded() from None

    async def fetch(self, request: httpx.Request, reception: Reception) -> Answer:
        return await self.send(request, reception)

    async def _receive(self, request: httpx.Request, reception: Reception) -> Answer:
        async with contextlib.aclosing(await self._http.send(request, stream=True)) as response:
            if reception.wants_content(response):
                async for piece in response.aiter_raw():
                    reception.add(piece)
            return reception.answer(response)
