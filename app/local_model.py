"""A model in this process, with the decoder and the batcher of the service, and without HTTP."""

import asyncio
import concurrent.futures
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Lock, Thread, current_thread
from types import TracebackType
from typing import Any, Self, TypeVar

from app.backend import LocalBackend, decode_threads, open_backend
from app.batching.admission import NEVER
from app.bundle.manifest import Label
from app.classification.classifier import Classification, Classifier, Overlay
from app.classification.opening import open_classifier
from app.errors import Draining
from app.observability.metrics import Metrics
from app.observability.tracing import NoTracer
from app.observability.utilization import InstanceCounts
from app.settings import Settings

T = TypeVar("T")


def open_model(bundle: Path | str | None = None, **settings: Any) -> "LocalModel":
    """Open a bundle: verify its files, open and verify its engines, and warm them up.

    Example::

        with open_model("my-bundle", device="cuda") as model:
            best = model.classify(Path("photo.jpg").read_bytes()).predictions[0]

    Args:
        bundle: the folder that `swin-export build` wrote. Default: the setting `bundle`.
        settings: any setting of the service by its name, as `device="cpu"`. A setting that is not given
            has the value of its environment variable or its default. Settings of HTTP have no effect.

    Raises:
        StartError: the bundle or a device cannot be used. The message is one sentence.
        ValueError: a setting is not valid.
    """
    return LocalModel(Settings(**settings if bundle is None else settings | {"bundle": bundle}))


class LocalModel:
    """A classifier with its batcher in a thread of its own. Every method may be called from any other thread.

    Images that are submitted at the same time share batches, so call `submit` for all of them before
    waiting for the first, or call `classify` from several threads. `max_queue_size` images may wait.

    As a context manager, it closes itself at the end of the block.
    """

    def __init__(self, settings: Settings) -> None:
        """Open the model. `open_model` says what it raises."""
        self._settings = settings
        self._is_closed = False
        self._lock = Lock()  # between `submit` and `close`: no image is submitted to a loop that has ended
        self._results: set[Future[Any]] = set()  # not done yet
        self._loop = asyncio.new_event_loop()
        # A daemon, so that a program that forgets `close` ends.
        self._thread = Thread(target=self._loop.run_forever, name="local model", daemon=True)
        self._thread.start()
        try:
            self._backend, self._classifier = self._run(self._open())
        except BaseException:
            self._end_thread()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def labels(self) -> Sequence[Label]:
        """The label of each class, by index."""
        return self._backend.bundle.labels

    @property
    def devices(self) -> Sequence[str]:
        """The device of each engine, as `cpu` or `cuda:0`."""
        return [str(engine.device_report.device) for engine in self._backend.engines]

    @property
    def is_ready(self) -> bool:
        """True if an engine can run a batch. False during a restart of the only engine, and after `close`."""
        return self._backend.batcher.works and not self._is_closed

    @property
    def is_broken(self) -> bool:
        """True if no engine is left, so that the model must be opened again."""
        return not self._backend.batcher.alive and not self._is_closed

    def classify(
        self, image: bytes, top_k: int | None = None, *, embedding: bool = False, timeout: float | None = None
    ) -> Classification:
        """Return the best classes of an encoded image, best first.

        Args:
            image: a file in one of the formats of the setting `formats`.
            top_k: the number of classes. Default: the setting `top_k`.
            embedding: whether to return the embedding, float32 (channels,), too.
            timeout: seconds from now, after which `DeadlineExceeded` is raised. Default: no timeout.

        Raises:
            ServiceError: any of the errors in `app/errors.py`: the image cannot be read, the queue is full,
                the engine failed, or the model is closed.
            RuntimeError: a callback of a future waits, see `submit`.
        """
        self._check_thread()
        return self.submit(image, top_k, embedding=embedding, timeout=timeout).result()

    def submit(
        self, image: bytes, top_k: int | None = None, *, embedding: bool = False, timeout: float | None = None
    ) -> Future[Classification]:
        """Start `classify` without waiting for its result.

        The future raises what `classify` raises. To cancel the image, cancel the future. In a coroutine,
        await `asyncio.wrap_future(model.submit(image))`. Callbacks that are added to the future run in the
        thread of the model: they may call `submit`, but not wait.

        Raises:
            ValueError: `top_k` is less than 1.
        """
        k = self._settings.top_k if top_k is None else top_k
        if k < 1:
            raise ValueError(f"top_k is {k}, and must be at least 1")
        deadline = _deadline(timeout)
        return self._start(lambda: self._classifier.classify(image, k, embedding=embedding, deadline=deadline))

    def draw_evidence(self, image: bytes, index: int | None = None, *, timeout: float | None = None) -> Overlay:
        """Return a PNG of the evidence for a class of an encoded image, as the service draws it.

        Args:
            image: a file in one of the formats of the setting `formats`.
            index: the class. Default: the best one.
            timeout: seconds from now, after which `DeadlineExceeded` is raised. Default: no timeout.

        Raises:
            ServiceError: what `classify` raises, or there is no such class.
            ValueError: `index` is less than 0.
            RuntimeError: a callback of a future waits, see `submit`.
        """
        self._check_thread()
        if index is not None and index < 0:
            raise ValueError(f"index is {index}, and classes are numbered from 0")
        deadline = _deadline(timeout)
        return self._start(lambda: self._classifier.draw_evidence(image, index, deadline=deadline)).result()

    def close(self) -> None:
        """Refuse new images, finish those that were submitted, and end all threads.

        Images that take longer than the setting `drain_timeout` fail with `Draining`. A second call does
        nothing.

        Raises:
            RuntimeError: a callback of a future waits, see `submit`.
        """
        self._check_thread()
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            submitted = list(self._results)
        concurrent.futures.wait(submitted, self._settings.drain_timeout)
        self._run(self._drain())
        self._classifier.decoder.close()
        self._backend.close()
        self._end_thread()

    def _check_thread(self) -> None:
        if current_thread() is self._thread:  # its event loop would wait for itself
            raise RuntimeError("a callback runs in the thread of the model and cannot wait for it; call submit")

    async def _open(self) -> tuple[LocalBackend, Classifier]:
        settings, metrics, threads = self._settings, Metrics(), decode_threads(self._settings)
        backend = open_backend(settings, metrics, NoTracer(), InstanceCounts(decode=threads))
        return backend, open_classifier(settings, backend.bundle, backend.batcher, threads, metrics)

    def _start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Start work on the event loop. After `close`, the future fails with `Draining`."""
        with self._lock:
            if self._is_closed:
                failed = Future[T]()
                failed.set_exception(Draining())
                return failed
            result = asyncio.run_coroutine_threadsafe(self._until_closed(work()), self._loop)
            self._results.add(result)
        result.add_done_callback(self._results.discard)
        return result

    async def _until_closed(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        except asyncio.CancelledError:
            if self._is_closed:
                raise Draining from None
            raise

    async def _drain(self) -> None:
        """Fail the images that are not done. Return when each has its error: the loop may end then."""
        await self._backend.batcher.drain(0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _deadline(timeout: float | None) -> float:
    """Return the time of `time.perf_counter` after a timeout in seconds."""
    return NEVER if timeout is None else time.perf_counter() + timeout
