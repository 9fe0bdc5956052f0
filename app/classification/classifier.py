"""Classification of one image: decode, preprocess, submit, rank. Knows nothing about HTTP.

All checks of an image come before `submit`, because an invalid image in a batch would fail the
whole batch.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from app.batching.admission import NEVER
from app.batching.types import UNTRACED, InferenceResult, Queue
from app.bundle.load import Head
from app.bundle.manifest import Activation, Label, LastMap
from app.classification.decoding import Decoder, Preprocessed
from app.classification.embedding import mean_token
from app.classification.evidence import contributions
from app.classification.ranking import top_k
from app.errors import InvalidParameter
from app.images.overlay import overlay
from app.observability.tracing import current_trace

T = TypeVar("T")

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
    """The parts of a bundle that a classifier needs."""

    labels: Sequence[Label]
    activation: Activation
    head: Head
    last_map: LastMap


class Classifier:
    """One network behind its batcher, with its preprocessing and its labels.

    Args:
        batcher: runs the network.
        decoder: decodes and preprocesses images.
        config: the network's parts.
    """

    def __init__(self, batcher: Queue, decoder: Decoder, config: ClassifierConfig) -> None:
        self._batcher, self._config = batcher, config
        self.decoder = decoder

    def admit(self, size: int = 0, deadline: float = NEVER) -> None:
        """Return if an image of `size` bytes would be accepted now, before its content is known.

        Raises:
            Overloaded, DeadlineExceeded, Draining, NotReady: the errors that `classify` would raise
            later.
        """
        self._batcher.admit(deadline=deadline, coming=self.decoder.in_progress)
        self.decoder.admit(size)

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
        png = await self.decoder.run(lambda: overlay(pixels, evidence, stride), "evidence", deadline)
        seconds["evidence"] = time.perf_counter() - started
        return Overlay(index, png, seconds)

    async def write(self, work: Callable[[], T], values: int, deadline: float = NEVER) -> T:
        """Return what `work` makes of the outputs of the network, as part of the stage `rank`.

        Above `SMALL_RESULT` values, it runs in the decode pool.

        Raises:
            DeadlineExceeded: the work was not done before the deadline.
        """
        return work() if values <= SMALL_RESULT else await self.decoder.run(work, "rank", deadline)

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
        return await self.decoder.pixels(data, deadline)
