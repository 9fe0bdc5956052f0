"""The client for programs without an event loop. Its methods may be called from any thread."""

import contextlib
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import httpx

from swin_client.calls import AHEAD, Caller
from swin_client.errors import SwinError
from swin_client.exchange import CUT_OFF_SECONDS, Answer, Reception, run_without_suspending
from swin_client.images import ImageSource
from swin_client.options import OnError, Service, check_many, classify_parameters, http_options
from swin_client.results import Classification, EvidencePicture

T = TypeVar("T")
R = TypeVar("R")


class Client:
    """A client of one service. It keeps connections open, so use one for all calls.

    Example::

        with Client("http://localhost:8000") as client:
            best = client.classify("photo.jpg").best

    Args:
        url: the address of the service, with the prefix of a proxy if there is one.
        api_key: a key of the service. It is sent to `url` only, never to the host of an image.
        timeout: seconds for a call, with its download, tries and pauses. The service gets what is left.
        max_retries: the most tries after the first. None: until the timeout.
        max_connections: the most connections at the same time. Further calls wait.
        max_download_bytes: the largest image that is downloaded.
        ssl_context: for https. None: the authorities that httpx trusts.

    Raises:
        ValueError: a value cannot be used.
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
        self._http = httpx.Client(**http_options(max_connections, ssl_context))
        self._caller = Caller(self._service, BlockingIO(self._http, threading.Event()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._service.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. Calls in progress fail."""
        self._http.close()

    def classify(
        self,
        image: ImageSource,
        top_k: int | None = None,
        *,
        evidence: bool = False,
        embedding: bool = False,
        timeout: float | None = None,
    ) -> Classification:
        """Return the best classes of an image.

        Args:
            image: a path, the bytes of a file, an image of Pillow, or a URL of http or https, which this
                client downloads. A string is a URL if it begins with `http://` or `https://`.
            top_k: the number of classes. Default: the setting of the service.
            evidence: whether to return the contribution of each position of the image.
            embedding: whether to return the embedding.
            timeout: seconds for this call. Default: the timeout of the client.

        Raises:
            SwinError: any of the errors in `swin_client.errors`.
        """
        parameters = classify_parameters(top_k, evidence=evidence, embedding=embedding)
        return run_without_suspending(self._caller.classify(image, parameters, timeout))

    def draw_evidence(
        self, image: ImageSource, index: int | None = None, *, timeout: float | None = None
    ) -> EvidencePicture:
        """Return a picture of the evidence for the class of this index, or for the best one.

        Raises:
            SwinError: as `classify`.
        """
        return run_without_suspending(self._caller.draw_evidence(image, index, timeout))

    @overload
    def classify_many(
        self,
        images: Iterable[ImageSource],
        top_k: int | None = None,
        *,
        evidence: bool = False,
        embedding: bool = False,
        timeout: float | None = None,
        concurrency: int = 8,
        on_error: Literal["raise"] = "raise",
    ) -> Generator[Classification, None, None]: ...

    @overload
    def classify_many(
        self,
        images: Iterable[ImageSource],
        top_k: int | None = None,
        *,
        evidence: bool = False,
        embedding: bool = False,
        timeout: float | None = None,
        concurrency: int = 8,
        on_error: Literal["return"],
    ) -> Generator[Classification | SwinError, None, None]: ...

    def classify_many(
        self,
        images: Iterable[ImageSource],
        top_k: int | None = None,
        *,
        evidence: bool = False,
        embedding: bool = False,
        timeout: float | None = None,
        concurrency: int = 8,
        on_error: OnError = "raise",
    ) -> Generator[Classification, None, None] | Generator[Classification | SwinError, None, None]:
        """Yield the result of each image, in the order of the images.

        `images` can be endless: it is read in the thread of the caller, at most 2 × `concurrency` images
        ahead of the results. To stop early, close the iterator: no more requests are sent, and `close`
        returns when those in progress have ended.

        Args:
            images: what `classify` takes.
            top_k: as in `classify`, and likewise `evidence` and `embedding`.
            evidence: see there.
            embedding: see there.
            timeout: seconds for each image, from the moment at which it is read.
            concurrency: the most requests at the same time, each in a thread.
            on_error: `raise` ends the iteration at the first error; `return` yields the error in the place
                of its image, and goes on.

        Raises:
            SwinError: as `classify`, with `on_error="raise"`.
            ValueError: a value cannot be used.
        """
        check_many(timeout, concurrency, on_error)
        parameters = classify_parameters(top_k, evidence=evidence, embedding=embedding)
        stopped = threading.Event()
        caller = Caller(self._service, BlockingIO(self._http, stopped))

        def classify(image: ImageSource) -> Classification | SwinError:
            return run_without_suspending(caller.outcome(image, parameters, timeout, on_error))

        return in_order(classify, images, concurrency, stopped)


def in_order(
    work: Callable[[T], R], items: Iterable[T], concurrency: int, stopped: threading.Event
) -> Generator[R, None, None]:
    """Yield the result for each item in order. At the end, also an early one, set `stopped`."""
    executor = ThreadPoolExecutor(concurrency, "swin_client")
    running = deque[Future[R]]()
    try:
        for item in items:
            running.append(executor.submit(work, item))
            while running and (running[0].done() or len(running) >= AHEAD * concurrency):
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        stopped.set()
        executor.shutdown(cancel_futures=True)


class BlockingIO:
    """`IO` that blocks the calling thread. Its coroutines never suspend."""

    def __init__(self, http: httpx.Client, stopped: threading.Event) -> None:
        self._http, self._stopped = http, stopped

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise CancelledError  # the result is not wanted any more

    async def run(self, function: Callable[[], T]) -> T:
        return function()

    async def send(self, request: httpx.Request, reception: Reception) -> Answer:
        return self._receive(request, reception)

    async def fetch(self, request: httpx.Request, reception: Reception) -> Answer:
        with CutOff(reception.deadline.left() + CUT_OFF_SECONDS) as cut_off:
            request.extensions = {**request.extensions, "trace": cut_off.watch}
            return self._receive(request, reception)

    def _receive(self, request: httpx.Request, reception: Reception) -> Answer:
        with contextlib.closing(self._http.send(request, stream=True)) as response:
            if reception.wants_content(response):
                for piece in response.iter_raw():
                    reception.add(piece)
            return reception.answer(response)


class CutOff:
    """A timer that ends the connections of one request: httpx's timeouts begin again with each byte of a header."""

    def __init__(self, seconds: float) -> None:
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, event: str, info: Mapping[str, Any]) -> None:
        """Take each connection that httpx opens for the request: httpx's extension `trace`."""
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            self._sockets.append(info["return_value"].get_extra_info("socket"))

    def _end(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):  # it is closed already
                each.shutdown(socket.SHUT_RDWR)
