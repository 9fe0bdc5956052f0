"""Classification of one image: decode, preprocess, submit, rank. Knows nothing about HTTP.

All checks of an image come before `submit`, because an invalid image in a batch would fail the
whole batch.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.batching.admission import NEVER
from app.batching.thread_pool import ThreadPool
from app.batching.types import UNTRACED, InferenceResult, Queue, ignore
from app.bundle.load import Head
from app.bundle.manifest import Activation, Label, LastMap, Preprocessing
from app.classification.embedding import mean_token
from app.classification.evidence import contributions
from app.classification.ranking import top_k
from app.errors import DeadlineExceeded, InvalidParameter, Overloaded
from app.images.decode import Limits, Picture, open_image, shrink, to_rgb
from app.images.overlay import overlay
from app.images.preprocess import min_decoded_size, preprocess
from app.observability.tracing import current_trace

T = TypeVar("T")
Result = TypeVar("Result")

# The pixels, and the seconds that each stage took.
Preprocessed = tuple[NDArray[np.uint8], dict[str, float]]

# Up to both sizes, an image is decoded on the event loop. The hop to the decode pool would cost
# more than the work.
SMALL_PIXELS, SMALL_BYTES = 128 * 128, 64 * 1024

# Up to this number of values, the classes or the numbers of a result are written on the event loop. Writing 10,000
# classes takes 25 ms.
SMALL_RESULT = 10_000

# Decimals of the numbers in a map. The sum of a hundred of them is off by at most 5e-5, and logits
# are around ten.
DECIMALS = 6


@dataclass(frozen=True)
class Prediction:
    """One of the best classes."""

    index: int
    label: str
    score: float


@dataclass(frozen=True)
class Explained(Prediction):
    """One of the best classes, with the parts of its logit."""

    logit: float
    bias: float  # the part of the logit that belongs to no position; it is spread evenly over the map
    evidence: list[list[float]]  # height × width; the sum is the logit


@dataclass(frozen=True)
class Inference:
    """The output of the network for one image, and the seconds that each stage took."""

    logits: NDArray[np.float32]  # (classes,)
    embedding: NDArray[np.float32] | None  # (channels,); None unless requested
    seconds: dict[str, float]


@dataclass(frozen=True)
class Classification:
    """The best classes, best first, and the seconds that each stage took."""

    predictions: Sequence[Prediction]
    embedding: NDArray[np.float32] | None  # (channels,); None unless requested
    seconds: dict[str, float]


@dataclass(frozen=True)
class Overlay:
    """A PNG with the evidence for a class, and the seconds that each stage took."""

    index: int
    png: bytes
    seconds: dict[str, float]


@dataclass(frozen=True)
class ClassifierConfig:
    """The parts of a bundle that a classifier needs, and its limits."""

    labels: Sequence[Label]
    activation: Activation
    preprocessing: Preprocessing
    head: Head
    last_map: LastMap
    limits: Limits
    convert_profiles: bool  # whether ICC profiles are converted to sRGB
    fast_decode: bool  # whether large JPEGs are decoded at a fraction of their size
    decode_threads: int
    max_decode_queue_size: int  # images in the decode pool, running and waiting


class Classifier:
    """One network behind its batcher, with its preprocessing and its labels.

    Args:
        batcher: runs the network.
        config: the network's parts and limits.
        on_cancel: called with the stage in which a request was cancelled.
        on_busy: called with the seconds for which a decode thread was busy.
    """

    def __init__(
        self,
        batcher: Queue,
        config: ClassifierConfig,
        *,
        on_cancel: Callable[[str], None] = ignore,
        on_busy: Callable[[float], None] = ignore,
    ) -> None:
        self._batcher, self._config = batcher, config
        self._pool = ThreadPool("decode", config.decode_threads)
        self._documents = ThreadPool("documents")
        self._decode_seconds = 0.0  # moving average for an image in the pool
        self._on_cancel, self._on_busy = on_cancel, on_busy
        self.decoding = 0  # images and documents that run or wait in threads

    def admit(self, size: int = 0, deadline: float = NEVER) -> None:
        """Return if an image of `size` bytes would be accepted now, before its content is known.

        Raises:
            Overloaded, DeadlineExceeded, Draining, NotReady: the errors that `classify` would raise
            later.
        """
        self._batcher.admit(deadline=deadline, coming=self.decoding)
        if size > SMALL_BYTES:
            self._admit_to_pool()

    async def infer(
        self, image: bytes | NDArray[np.uint8], *, embedding: bool = False, deadline: float = NEVER
    ) -> Inference:
        """Return the output of the network for an encoded image, or for pixels (height, width, 3).

        Pixels are RGB, already preprocessed, and have the size of the network's input. `deadline` is a
        time of `time.perf_counter`.

        Raises:
            ServiceError: any of the errors in `app/errors.py`.
        """
        pixels, seconds = await self._pixels(image, deadline) if isinstance(image, bytes) else (image, {})
        result = await self._submit(pixels, seconds, deadline, return_tokens=embedding)
        return Inference(result.output.logits, mean_token(result.output.tokens) if embedding else None, seconds)

    async def classify(
        self, data: bytes, k: int, *, evidence: bool = False, embedding: bool = False, deadline: float = NEVER
    ) -> Classification:
        """Return the k best classes of an image. With evidence, each of them is `Explained`.

        `deadline` is a time of `time.perf_counter`.

        Raises:
            ServiceError: any of the errors in `app/errors.py`.
        """
        pixels, seconds = await self._pixels(data, deadline)
        result = await self._submit(pixels, seconds, deadline, return_tokens=evidence or embedding)
        started = time.perf_counter()
        rank = partial(self._rank, result.output.logits, k)
        predictions = await self.write(rank, min(k, len(self._config.labels)), deadline)
        seconds["rank"] = time.perf_counter() - started
        if evidence:
            started = time.perf_counter()
            predictions = self._explained(predictions, result)
            seconds["evidence"] = time.perf_counter() - started
        return Classification(predictions, mean_token(result.output.tokens) if embedding else None, seconds)

    async def draw_evidence(self, data: bytes, index: int | None, *, deadline: float = NEVER) -> Overlay:
        """Return a PNG of the evidence for a class, or for the best class if `index` is None.

        Raises:
            ServiceError: any of the errors in `app/errors.py`.
        """
        classes, stride = len(self._config.labels), self._config.last_map.stride
        if index is not None and index >= classes:
            raise InvalidParameter(f"There is no class {index}: classes are numbered from 0 to {classes - 1}.")
        pixels, seconds = await self._pixels(data, deadline)
        result = await self._submit(pixels, seconds, deadline, return_tokens=True)
        started = time.perf_counter()
        index = int(result.output.logits.argmax()) if index is None else index
        (evidence,) = self._maps(result, [index])
        png = await self._run_in(self._pool, lambda: overlay(pixels, evidence, stride), "evidence", deadline)
        seconds["evidence"] = time.perf_counter() - started
        return Overlay(index, png, seconds)

    async def decode_document(self, decode: Callable[[T], Result], document: T, deadline: float = NEVER) -> Result:
        """Return what `decode` makes of a large document of a request, as part of the stage `decode`.

        One thread decodes all documents: numbers take up to nine times the memory of their text until they
        are an array, and parsing holds the interpreter lock anyway. Images do not wait for documents.

        Raises:
            Overloaded: too much work waits for threads.
            DeadlineExceeded: the document was not decoded before the deadline.
            ServiceError: any error of `decode`.
        """
        return await self._decode_in(self._documents, decode, document, deadline)

    async def write(self, work: Callable[[], T], values: int, deadline: float = NEVER) -> T:
        """Return what `work` makes of the outputs of the network, as part of the stage `rank`.

        Above `SMALL_RESULT` values, it runs in the decode pool.

        Raises:
            DeadlineExceeded: the work was not done before the deadline.
        """
        return work() if values <= SMALL_RESULT else await self._run_in(self._pool, work, "rank", deadline)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.close()
        self._documents.close()

    async def _submit(
        self, pixels: NDArray[np.uint8], seconds: dict[str, float], deadline: float, *, return_tokens: bool
    ) -> InferenceResult:
        trace = current_trace.get()
        link = UNTRACED if trace is None else trace.link
        result = await self._batcher.submit(pixels, return_tokens=return_tokens, deadline=deadline, trace=link)
        seconds |= {"queue": result.queue_seconds, "infer": result.run_seconds}
        return result

    def _rank(self, logits: NDArray[np.float32], k: int) -> list[Prediction]:
        ranked = top_k(logits, k, self._config.activation)
        return [Prediction(index, self._config.labels[index].name, score) for index, score in ranked]

    def _explained(self, predictions: Sequence[Prediction], result: InferenceResult) -> list[Prediction]:
        maps = self._maps(result, [prediction.index for prediction in predictions])
        return [
            Explained(
                **vars(prediction),
                logit=float(result.output.logits[prediction.index]),
                bias=float(self._config.head.bias[prediction.index]),
                evidence=evidence.astype(float).round(DECIMALS).tolist(),
            )
            for prediction, evidence in zip(predictions, maps, strict=True)
        ]

    def _maps(self, result: InferenceResult, classes: Sequence[int]) -> NDArray[np.float32]:
        """Return the map of each class: (classes, height, width)."""
        shares = contributions(result.output.tokens, self._config.head, classes)  # (classes, positions)
        return shares.reshape(-1, self._config.last_map.height, self._config.last_map.width)

    async def _pixels(self, data: bytes, deadline: float) -> Preprocessed:
        self.admit(deadline=deadline)  # refuse before the work is done
        if len(data) > SMALL_BYTES:  # not opened on the event loop: reading a header of megabytes takes seconds
            return await self._in_pool(self._open_and_decode, data, deadline)
        image = open_image(data, self._config.limits)
        if image.width * image.height > SMALL_PIXELS:
            return await self._in_pool(self._decode, image, deadline)
        return self._decode(image)

    async def _in_pool(self, work: Callable[[T], Preprocessed], item: T, deadline: float) -> Preprocessed:
        pixels, seconds = await self._decode_in(self._pool, work, item, deadline)
        self._decode_seconds += (sum(seconds.values()) - self._decode_seconds) / 8
        return pixels, seconds

    async def _decode_in(self, pool: ThreadPool, work: Callable[[T], Result], item: T, deadline: float) -> Result:
        self._admit_to_pool()
        self.decoding += 1
        held = [item]  # emptied on cancellation, which frees the memory; the pool's queue keeps the job itself
        try:
            return await self._run_in(pool, lambda: work(held[0]), "decode", deadline)
        finally:
            held.clear()
            self.decoding -= 1

    def _admit_to_pool(self) -> None:
        if self.decoding >= self._config.max_decode_queue_size:
            raise Overloaded(self.decoding * self._decode_seconds / self._config.decode_threads)

    async def _run_in(self, pool: ThreadPool, work: Callable[[], T], stage: str, deadline: float) -> T:
        """Run the work in a thread, until the deadline. Cancelled work does not start."""
        try:
            async with asyncio.timeout(None if deadline == NEVER else deadline - time.perf_counter()):
                return await pool.run(partial(self._timed, work))
        except TimeoutError:
            raise DeadlineExceeded from None
        except asyncio.CancelledError:
            self._on_cancel(stage)
            raise

    def _timed(self, work: Callable[[], T]) -> T:
        """Run the work, and report how long the thread was busy, also after a failure."""
        started = time.perf_counter()
        try:
            return work()
        finally:
            self._on_busy(time.perf_counter() - started)

    def _open_and_decode(self, data: bytes) -> Preprocessed:
        return self._decode(open_image(data, self._config.limits))

    def _decode(self, image: Picture) -> Preprocessed:
        started = time.perf_counter()
        if self._config.fast_decode:
            shrink(image, min_decoded_size(image.size, self._config.preprocessing))
        rgb = to_rgb(image, follow_profile=self._config.convert_profiles)
        decoded = time.perf_counter()
        pixels = preprocess(rgb, self._config.preprocessing)
        return pixels, {"decode": decoded - started, "preprocess": time.perf_counter() - decoded}
