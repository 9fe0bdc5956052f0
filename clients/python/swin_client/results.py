"""The results of calls, read from answers. Knows no connection."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swin_client.errors import InvalidAnswer

# A stage of `Server-Timing`, as `infer;dur=1.25`.
STAGE = re.compile(r"(\w+);dur=([\d.]+)")


@dataclass(frozen=True, slots=True)
class Evidence:
    """The exact contribution of each position of the image to the logit of a class.

    Attributes:
        logit: the value from which the score is computed.
        bias: the part of the logit that is the same for every image.
        rows: the contribution of each position, in rows from the top. The bias is spread evenly over
            them, so that the numbers sum to the logit.
    """

    logit: float
    bias: float
    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """A class that the image may belong to.

    Attributes:
        index: the number of the class, counted from 0.
        label: the name of the class.
        score: the confidence, from 0 to 1.
        evidence: the evidence for the class, if the call asked for it.
    """

    index: int
    label: str
    score: float
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Classification:
    """The best classes of one image.

    Attributes:
        predictions: the classes, best first.
        embedding: the vector to which the last layer of the network is applied, if the call asked for it.
        stage_ms: the time of each stage in the service, in milliseconds.
        request_id: the id of the request in the log of the service.
    """

    predictions: tuple[Prediction, ...]
    embedding: tuple[float, ...] | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict, compare=False)
    request_id: str | None = field(default=None, compare=False)

    @property
    def best(self) -> Prediction:
        """The class with the highest score."""
        return self.predictions[0]


@dataclass(frozen=True, slots=True)
class EvidencePicture:
    """A picture of the evidence for one class.

    Attributes:
        png: the picture, as a PNG file.
        index: the number of the class.
        stage_ms: the time of each stage in the service, in milliseconds.
        request_id: the id of the request in the log of the service.
    """

    png: bytes = field(repr=False)
    index: int
    stage_ms: Mapping[str, float] = field(default_factory=dict, compare=False)
    request_id: str | None = field(default=None, compare=False)


def classification_of(headers: Mapping[str, str], content: bytes) -> Classification:
    """Return the result in an answer. Members that this version does not know are ignored.

    Raises:
        InvalidAnswer: the content is not a classification.
    """
    try:
        document = json.loads(content)
        predictions = tuple(_prediction(each) for each in document["predictions"])
        embedding = document.get("embedding")
        return Classification(
            predictions,
            None if embedding is None else _numbers(embedding),
            _stages(headers),
            headers.get("x-request-id"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidAnswer(f"the answer is not a classification of swin-serve: {_beginning(content)}") from error


def picture_of(headers: Mapping[str, str], content: bytes) -> EvidencePicture:
    """Return the picture in an answer.

    Raises:
        InvalidAnswer: the content is not a picture of swin-serve.
    """
    index = headers.get("x-class-index", "")
    if headers.get("content-type") != "image/png" or not index.isdecimal():
        raise InvalidAnswer(f"the answer is not a picture of swin-serve: {_beginning(content)}")
    return EvidencePicture(content, int(index), _stages(headers), headers.get("x-request-id"))


def _prediction(document: Any) -> Prediction:
    evidence = None
    if "evidence" in document:
        rows = tuple(_numbers(row) for row in document["evidence"])
        evidence = Evidence(float(document["logit"]), float(document["bias"]), rows)
    return Prediction(int(document["index"]), str(document["label"]), float(document["score"]), evidence)


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _stages(headers: Mapping[str, str]) -> dict[str, float]:
    return {stage: float(value) for stage, value in STAGE.findall(headers.get("server-timing", ""))}


def _beginning(content: bytes) -> str:
    return repr(content[:80].decode("utf-8", "replace"))
