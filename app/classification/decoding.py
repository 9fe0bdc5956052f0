"""Decoding of images and documents: on the event loop if small, otherwise in threads, with bounds. Knows no network."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.batching.admission import NEVER
from app.batching.thread_pool import ThreadPool
from app.batching.types import ignore
from app.errors import DeadlineExceeded, Overloaded
from app.images.decode import Picture, open_image
from app.images.preprocess import preprocess
from app.images.preview import Preview, preview
from app.images.reading import ImageReader

T = TypeVar("T")
Result = TypeVar("Result")

# The pixels, and the seconds that each stage took.
Preprocessed = tuple[NDArray[np.uint8], dict[str, float]]

# Up to both sizes, an image is decoded on the event loop. The hop to the decode pool would cost
# more than the work. Documents of the same size are decoded there, too.
SMALL_PIXELS, SMALL_BYTES = 128 * 128, 64 * 1024


@dataclass(frozen=True)
class DecoderConfig:
    """How images are read, by how many threads, and how many may wait."""

    reader: ImageReader
    threads: int  # of the decode pool
    max_queue_size: int  # images and documents in threads, running and waiting


class Decoder:
    """The decode pool, and one thread for documents.

    Args:
        config: preprocessing and limits.
        on_cancel: called with the stage in which work in a thread was cancelled.
        on_busy: called with the seconds for which a thread of the pool was busy.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        on_cancel: Callable[[str], None] = ignore,
        on_busy: Callable[[float], None] = ignore,
    ) -> None:
        self._config = config
        self._pool = ThreadPool("decode", config.threads)
        self._documents = ThreadPool("documents")
        self._decode_seconds = 0.0  # moving average for an image in the pool
        self._on_cancel, self._on_busy = on_cancel, on_busy
        self.in_progress = 0  # images and documents that run or wait in threads

    def admit(self, size: int) -> None:
        """Return if an image of `size` bytes would be accepted now, before its content is known.

        Raises:
            Overloaded: too much work waits for threads.
        """
        if size > SMALL_BYTES:
            self._admit()

    async def pixels(self, data: bytes, deadline: float = NEVER) -> Preprocessed:
        """Return the preprocessed pixels of an encoded image, (height, width, 3), and the seconds of each stage.

        Raises:
            Overloaded: too much work waits for threads.
            DeadlineExceeded: the image was not decoded before the deadline.
            ServiceError: the image is unsupported, unreadable or too large.
        """
        if len(data) > SMALL_BYTES:  # not opened on the event loop: reading a header of megabytes takes seconds
            return await self._in_pool(self._open_and_decode, data, deadline)
        image = open_image(data, self._config.reader.limits)
        if image.width * image.height > SMALL_PIXELS:
            return await self._in_pool(self._decode, image, deadline)
        return self._decode(image)

    async def preview(self, data: bytes, deadline: float = NEVER) -> Preview:
        """Return the network's input for an encoded image as a PNG, and the region of the image that it shows.

        Raises:
            Overloaded, DeadlineExceeded, ServiceError: as `pixels`.
        """
        return await self._decode_in(self._pool, partial(self._timed, self._preview), data, deadline)

    async def document(self, decode: Callable[[T], Result], document: T, deadline: float = NEVER) -> Result:
        """Return what `decode` makes of a large document of a request.

        One thread decodes all documents: numbers take up to nine times the memory of their text until they
        are an array, and parsing holds the interpreter lock anyway. Images do not wait for documents.

        Raises:
            Overloaded: too much work waits for threads.
            DeadlineExceeded: the document was not decoded before the deadline.
            ServiceError: any error of `decode`.
        """
        return await self._decode_in(self._documents, decode, document, deadline)

    async def run(self, work: Callable[[], T], stage: str, deadline: float = NEVER) -> T:
        """Run other work of a stage in the decode pool. Cancelled work does not start.

        Raises:
            DeadlineExceeded: the work was not done before the deadline.
        """
        return await self._run_in(self._pool, partial(self._timed, work), stage, deadline)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.close()
        self._documents.close()

    async def _in_pool(self, work: Callable[[T], Preprocessed], item: T, deadline: float) -> Preprocessed:
        pixels, seconds = await self._decode_in(self._pool, partial(self._timed, work), item, deadline)
        self._decode_seconds += (sum(seconds.values()) - self._decode_seconds) / 8
        return pixels, seconds

    async def _decode_in(self, pool: ThreadPool, work: Callable[[T], Result], item: T, deadline: float) -> Result:
        self._admit()
        self.in_progress += 1
        held = [item]  # emptied on cancellation, which frees the memory; the pool's queue keeps the job itself
        try:
            return await self._run_in(pool, lambda: work(held[0]), "decode", deadline)
        finally:
            held.clear()
            self.in_progress -= 1

    def _admit(self) -> None:
        if self.in_progress >= self._config.max_queue_size:
            raise Overloaded(self.in_progress * self._decode_seconds / self._config.threads)

    async def _run_in(self, pool: ThreadPool, work: Callable[[], T], stage: str, deadline: float) -> T:
        """Run the work in a thread, until the deadline. Cancelled work does not start."""
        try:
            async with asyncio.timeout(None if deadline == NEVER else deadline - time.perf_counter()):
                return await pool.run(work)
        except TimeoutError:
            raise DeadlineExceeded from None
        except asyncio.CancelledError:
            self._on_cancel(stage)
            raise

    def _timed(self, work: Callable[..., Result], *arguments: object) -> Result:
        """Run the work, and report how long the thread was busy, also after a failure."""
        started = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            self._on_busy(time.perf_counter() - started)

    def _open_and_decode(self, data: bytes) -> Preprocessed:
        return self._decode(open_image(data, self._config.reader.limits))

    def _preview(self, data: bytes) -> Preview:
        reader = self._config.reader
        return preview(reader.to_rgb(open_image(data, reader.limits)), reader.preprocessing)

    def _decode(self, image: Picture) -> Preprocessed:
        started = time.perf_counter()
        rgb = self._config.reader.to_rgb(image)
        decoded = time.perf_counter()
        pixels = preprocess(rgb, self._config.reader.preprocessing)
        return pixels, {"decode": decoded - started, "preprocess": time.perf_counter() - decoded}
