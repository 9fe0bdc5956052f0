"""Images to send, and what has to come back: each is asked alone once, so that a wrong answer is noticed."""

import io
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.load.clients import Callers, request
from tests.references.draw import draw_picture

TOLERANCE = 1e-4
"""Of a score: an image's logits depend on its batch by rounding."""

NEAR = 0.05
"""Of a score, where rounding is not all: another decoder's pixels, or bytes scaled by what their batch holds."""

TIE = 1e-5
"""Classes whose scores are nearer than that may change places by rounding."""


@dataclass(frozen=True)
class Known:
    """An image, and its best classes and their scores when it is asked alone."""

    data: bytes
    scores: Sequence[tuple[int, float]]

    def matches(self, predictions: Sequence[Mapping[str, Any]]) -> bool:
        """Whether this is its own answer: the same classes in the same order, with the same scores."""
        return [index for index, _ in self.scores] == [row["index"] for row in predictions] and all(
            abs(score - row["score"]) <= TOLERANCE for (_, score), row in zip(self.scores, predictions, strict=True)
        )

    def resembles(self, predictions: Sequence[Mapping[str, Any]]) -> bool:
        """Whether this is about its own answer: no class has quite another score, and a known one is the best."""
        known = dict(self.scores)
        return any(row["index"] in known for row in predictions[:1]) and all(
            abs(known[row["index"]] - row["score"]) <= NEAR for row in predictions if row["index"] in known
        )

    def is_telling(self, others: Iterable["Known"]) -> bool:
        """Whether its answer can be told from theirs, and has an order that rounding cannot change."""
        scores = [score for _, score in self.scores]
        is_tied = any(better - worse <= TIE for better, worse in pairwise(scores))
        return not is_tied and not any(self._resembles(other) for other in others)

    def _resembles(self, other: "Known") -> bool:
        mine, others = dict(self.scores), dict(other.scores)
        return mine.keys() == others.keys() and all(abs(mine[key] - others[key]) <= 3 * TOLERANCE for key in mine)


def noise(random: Random) -> bytes:
    """A PNG of 32×32 gray pixels, another each time; as large as a digit, and never seen by any training."""
    pixels = np.frombuffer(random.randbytes(32 * 32), np.uint8).reshape(32, 32)
    return encode(Image.fromarray(pixels), "PNG")


def photo(width: int, height: int, random: Random) -> bytes:
    """A JPEG with smooth parts and edges, another each time."""
    return encode(draw_picture(width, height, random.getrandbits(32)), "JPEG")


def encode(image: Image.Image, kind: str) -> bytes:
    """The image as a file."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


async def learn(callers: Callers, images: Iterable[bytes]) -> list[Known]:
    """Ask each image alone; those whose answers tell nothing are left out."""
    known: list[Known] = []
    async for image in _asked(callers, images):
        if image.is_telling(known):
            known.append(image)
    return known


async def _asked(callers: Callers, images: Iterable[bytes]) -> AsyncIterator[Known]:
    for data in images:
        predictions = (await callers.ask(request("/classify", data))).json()["predictions"]
        yield Known(data, [(row["index"], row["score"]) for row in predictions])
