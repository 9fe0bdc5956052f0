"""The predictions in responses: as `/classify` returns them, and from the logits of the Open Inference Protocol."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.load.clients import Reply
from benchmarks.load.images import Known

# The header field with the length of the JSON document in front of binary outputs, in lower case.
HEADER_LENGTH = "inference-header-content-length"

Logits = NDArray[np.float32]


def is_result(reply: Reply, known: Known) -> bool:
    """Return whether a response has the predictions of this image, and of no other."""
    if HEADER_LENGTH in reply.headers or "outputs" in reply.json():
        return are_results(logits_of(reply), [known])
    return known.matches(reply.json()["predictions"])


def are_results(logits: Logits, known: Sequence[Known]) -> bool:
    """Return whether logits of (images, classes) have the predictions of these images in this order."""
    return len(logits) == len(known) and all(
        each.matches(_predictions(row, len(each.scores))) for each, row in zip(known, logits, strict=True)
    )


def logits_of(reply: Reply) -> Logits:
    """Return the logits in a response of `/v2`: the only output, in JSON or behind it."""
    length = int(reply.headers.get(HEADER_LENGTH, len(reply.body)))
    (output,) = json.loads(reply.body[:length])["outputs"]
    return tensor(reply.body[length:] if HEADER_LENGTH in reply.headers else output["data"], output["shape"])


def tensor(data: bytes | Sequence[float], shape: Sequence[int]) -> Logits:
    """Return FP32 values, which are little endian if they are binary, in this shape."""
    values = np.frombuffer(data, "<f4") if isinstance(data, bytes) else np.array(data, np.float32)
    return values.reshape(shape)


def _predictions(logits: Logits, count: int) -> list[dict[str, Any]]:
    """Return the best classes with their scores, as softmax gives them."""
    powers = np.exp(logits.astype(float) - logits.max())
    scores = powers / powers.sum()
    return [{"index": int(index), "score": scores[index]} for index in np.argsort(-scores, kind="stable")[:count]]
