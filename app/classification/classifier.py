"""The story of one request: decode → preprocess → submit → rank, and evidence if asked for. Knows nothing of HTTP.

Everything that can be wrong with one image is settled before `submit`: a bad row in a batch would fail its neighbors.
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
from app.batching.types import InferenceResult, Queue, ignore
from app.bundle.load import Head
from app.bundle.manifest import Activation, Label, LastMap, Preprocessing
from app.classification.evidence import contributions
from app.classification.ranking import top_k
from app.errors import DeadlineExceeded, InvalidParameter, Overloaded
from app.images.decode import Limits, Picture, open_image, shrink, to_rgb
from app.images.overlay import overlay
from app.images.preprocess import min_decoded_size, preprocess

T = TypeVar("T")

Preprocessed = tuple[NDArray[np.uint8], dict[str, float]]
"""Pixels, and the seconds each stage took."""

SMALL_PIXELS, SMALL_BYTES = 128 * 128, 64 * 1024
"""Up to both, an image is decoded in place: there the hop to the pool costs more than the work."""

DECIMALS = 6
"""Of the numbers of a map: a hundred of them together are off by 5e-5 at most, where logits are of the order of ten."""


@dataclass(frozen=True)
class Prediction:
    """One of the best classes."""

    index: int
    label: str
    score: float


@dataclass(frozen=True)
class Explained(Prediction):
    """One of the best classes, and what its logit is made of."""

    logit: float
    bias: float  # part of the logit that no position has a say in: it is spread evenly over the map
    evidence: list[list[float]]  # height × width; sums to the logit


@dataclass(frozen=True)
class Classification:
    """The best classes, best first, and the seconds each stage took."""

    predictions: Sequence[Prediction]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Overlay:
    """A picture (PNG) of the evidence for a class, and the seconds each stage took."""

    index: int
    png: bytes
    seconds: dict[str, float]


class Classifier:
    """One network behind its batcher, with the preprocessing and the labels that belong to it."""

    def __init__(
        self,
        batcher: Queue,
        *,
        preprocessing: Preprocessing,
        labels: Sequence[Label],
        activation: Activation,
        head: Head,
        last_map: LastMap,
        limits: Limits,
        follow_profiles: bool,
        shrinks: bool,
        decode_threads: int,
        max_decode_queue_size: int,
        on_cancel: Callable[[str], None] = ignore,
        on_busy: Callable[[float], None] = ignore,
    ) -> None:
        self._batcher, self._preprocessing = batcher, preprocessing
        self._labels, self._activation, self._limits = labels, activation, limits
        self._follow_profiles, self._shrinks = follow_profiles, shrinks
        self._head, self._map = head, last_map
        self._pool = ThreadPool("decode", decode_threads)
        self._decode_threads, self._decode_queue = decode_threads, max_decode_queue_size
        self._decode_seconds = 0.0  # of an image in the pool, lately
        self._on_leave, self._on_busy = on_cancel, on_busy
        self.decoding = 0  # images in the pool or waiting for it

    def admit(self, size: int = 0, deadline: float = NEVER) -> None:
        """Return if an image of so many bytes that came now would be taken, as far as can be told without it.

        Raises:
            Overloaded, DeadlineExceeded, Draining, NotReady: what `classify` would raise sooner or later.
        """
        self._batcher.admit(deadline=deadline, coming=self.decoding)
        if size > SMALL_BYTES:
            self._admit_to_pool()

    async def classify(self, data: bytes, k: int, *, evidence: bool = False, deadline: float = NEVER) -> Classification:
        """Encoded image → its k best classes; with evidence, each of them `Explained`.

        `deadline` is a time of `time.perf_counter`.

        Raises:
            ServiceError: any of the leaves drawn in `errors.py`.
        """
        pixels, seconds = await self._pixels(data, deadline)
        answer = await self._submit(pixels, seconds, deadline, return_tokens=evidence)
        started = time.perf_counter()
        ranked = top_k(answer.output.logits, k, self._activation)
        predictions = [Prediction(index, self._labels[index].name, score) for index, score in ranked]
        seconds["rank"] = time.perf_counter() - started
        if evidence:
            started = time.perf_counter()
            predictions = self._explained(predictions, answer)
            seconds["evidence"] = time.perf_counter() - started
        return Classification(predictions, seconds)

    async def draw_evidence(self, data: bytes, index: int | None, *, deadline: float = NEVER) -> Overlay:
        """Encoded image → a picture of the evidence for a class, the best one if none is named.

        Raises:
            ServiceError: any of the leaves drawn in `errors.py`.
        """
        if index is not None and index >= len(self._labels):
            raise InvalidParameter(f"There is no class {index}: they are counted from 0 to {len(self._labels) - 1}.")
        pixels, seconds = await self._pixels(data, deadline)
        answer = await self._submit(pixels, seconds, deadline, return_tokens=True)
        started = time.perf_counter()
        index = int(answer.output.logits.argmax()) if index is None else index
        (evidence,) = self._maps(answer, [index])
        png = await self._off_the_loop(lambda: overlay(pixels, evidence, self._map.stride), "evidence", deadline)
        seconds["evidence"] = time.perf_counter() - started
        return Overlay(index, png, seconds)

    def close(self) -> None:
        """Stop the decode threads."""
        self._pool.close()

    async def _submit(
        self, pixels: NDArray[np.uint8], seconds: dict[str, float], deadline: float, *, return_tokens: bool
    ) -> InferenceResult:
        answer = await self._batcher.submit(pixels, return_tokens=return_tokens, deadline=deadline)
        seconds |= {"queue": answer.queue_seconds, "infer": answer.run_seconds}
        return answer

    def _explained(self, predictions: Sequence[Prediction], answer: InferenceResult) -> list[Prediction]:
        maps = self._maps(answer, [prediction.index for prediction in predictions])
        return [
            Explained(
                **vars(prediction),
                logit=float(answer.output.logits[prediction.index]),
                bias=float(self._head.bias[prediction.index]),
                evidence=evidence.astype(float).round(DECIMALS).tolist(),
            )
            for prediction, evidence in zip(predictions, maps, strict=True)
        ]

    def _maps(self, answer: InferenceResult, classes: Sequence[int]) -> NDArray[np.float32]:
        """(classes, height, width)."""
        shares = contributions(answer.output.tokens, self._head, classes)  # classes, positions
        return shares.reshape(-1, self._map.height, self._map.width)

    async def _pixels(self, data: bytes, deadline: float) -> Preprocessed:
        self.admit(deadline=deadline)  # before the work, which would be for nothing
        if len(data) > SMALL_BYTES:  # not even opened here: a header can hold megabytes to walk through
            return await self._in_pool(self._open_and_decode, data, deadline)
        image = open_image(data, self._limits)
        if image.width * image.height > SMALL_PIXELS:
            return await self._in_pool(self._decode, image, deadline)
        return self._decode(image)

    async def _in_pool(self, work: Callable[[T], Preprocessed], item: T, deadline: float) -> Preprocessed:
        self._admit_to_pool()
        self.decoding += 1
        held = [item]  # emptied for a caller that left: what waits in the pool cannot be taken out of it
        try:
            pixels, seconds = await self._off_the_loop(lambda: work(held[0]), "decode", deadline)
        finally:
            held.clear()
            self.decoding -= 1
        self._decode_seconds += (sum(seconds.values()) - self._decode_seconds) / 8
        return pixels, seconds

    def _admit_to_pool(self) -> None:
        if self.decoding >= self._decode_queue:
            raise Overloaded(self.decoding * self._decode_seconds / self._decode_threads)

    async def _off_the_loop(self, work: Callable[[], T], stage: str, deadline: float) -> T:
        """In a thread of the decode pool, until the deadline. Work that nobody waits for any more is not begun."""
        try:
            async with asyncio.timeout(None if deadline == NEVER else deadline - time.perf_counter()):
                return await self._pool.run(partial(self._timed, work))
        except TimeoutError:
            raise DeadlineExceeded from None
        except asyncio.CancelledError:
            self._on_leave(stage)
            raise

    def _timed(self, work: Callable[[], T]) -> T:
        """In a thread of the pool, which is busy for as long, whatever comes of it and whoever still waits for it."""
        started = time.perf_counter()
        try:
            return work()
        finally:
            self._on_busy(time.perf_counter() - started)

    def _open_and_decode(self, data: bytes) -> Preprocessed:
        return self._decode(open_image(data, self._limits))

    def _decode(self, image: Picture) -> Preprocessed:
        started = time.perf_counter()
        if self._shrinks:
            shrink(image, min_decoded_size(image.size, self._preprocessing))
        rgb = to_rgb(image, follow_profile=self._follow_profiles)
        decoded = time.perf_counter()
        pixels = preprocess(rgb, self._preprocessing)
        return pixels, {"decode": decoded - started, "preprocess": time.perf_counter() - decoded}
