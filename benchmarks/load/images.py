"""Test images and their expected predictions.

The predictions of each image are first requested alone. Under load, a response with other
predictions is therefore detected as wrong.
"""

import io
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from app.load.client_pool import request
from benchmarks.load.clients import ConnectionPool
from tests.references.draw import draw_picture

# Tolerance of a score: the logits of an image depend on its batch by rounding.
TOLERANCE = 1e-4

# Tolerance of a score beyond rounding: for another JPEG decoder, or for int8, which scales by the
# contents of the batch.
NEAR = 0.05

# Scores that are closer than this can swap places by rounding.
TIE = 1e-5


@dataclass(frozen=True)
class Known:
    """An encoded image, and its best classes with their scores when it is requested alone."""

    data: bytes
    scores: Sequence[tuple[int, float]]

    def matches(self, predictions: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the predictions have the same classes in the same order with the same scores."""
        return [index for index, _ in self.scores] == [row["index"] for row in predictions] and all(
            abs(score - row["score"]) <= TOLERANCE for (_, score), row in zip(self.scores, predictions, strict=True)
        )

    def resembles(self, predictions: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the best class is an expected one and all common scores are within `NEAR`."""
        known = dict(self.scores)
        return any(row["index"] in known for row in predictions[:1]) and all(
            abs(known[row["index"]] - row["score"]) <= NEAR for row in predictions if row["index"] in known
        )

    def is_distinct(self, others: Iterable["Known"]) -> bool:
        """Return whether the scores differ from those of all others, and rounding cannot change their order."""
        scores = [score for _, score in self.scores]
        is_tied = any(better - worse <= TIE for better, worse in pairwise(scores))
        return not is_tied and not any(self._is_like(other) for other in others)

    def _is_like(self, other: "Known") -> bool:
        first, second = dict(self.scores), dict(other.scores)
        return first.keys() == second.keys() and all(abs(first[key] - second[key]) <= 3 * TOLERANCE for key in first)


def noise(random: Random) -> bytes:
    """Return a PNG of 32×32 random gray pixels: as large as a digit of the demonstration."""
    pixels = np.frombuffer(random.randbytes(32 * 32), np.uint8).reshape(32, 32)
    return encode(Image.fromarray(pixels), "PNG")


def photo(width: int, height: int, random: Random) -> bytes:
    """Return a JPEG of a random drawing with smooth areas and edges."""
    return encode(draw_picture(width, height, random.getrandbits(32)), "JPEG")


def encode(image: Image.Image, kind: str) -> bytes:
    """Return the image as the bytes of a file of this format."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


async def learn(pool: ConnectionPool, images: Iterable[bytes]) -> list[Known]:
    """Request each image alone, and return those with distinct predictions."""
    known: list[Known] = []
    async for image in _request_each(pool, images):
        if image.is_distinct(known):
            known.append(image)
    return known


async def _request_each(pool: ConnectionPool, images: Iterable[bytes]) -> AsyncIterator[Known]:
    for data in images:
        predictions = (await pool.ask(request("/classify", data))).json()["predictions"]
        yield Known(data, [(row["index"], row["score"]) for row in predictions])
