"""How a server is asked about an image, and where in its answer the answer is. Ours is what most peers speak, too."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.load.clients import request


@dataclass(frozen=True)
class Protocol:
    """Image → request as it goes over the wire; body of its answer → what holds the predictions."""

    request: Callable[[bytes], bytes] = lambda image: request("/classify", image)
    read: Callable[[bytes], Any] = json.loads


def _json(path: str, content: Mapping[str, Any]) -> bytes:
    return request(path, json.dumps(content).encode(), headers={"Content-Type": "application/json"})


def _litserve(image: bytes) -> bytes:
    return _json("/classify", {"image": base64.b64encode(image).decode()})


def _mlserver(image: bytes) -> bytes:
    data = [base64.b64encode(image).decode()]
    return _json(
        "/v2/models/swin/infer", {"inputs": [{"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": data}]}
    )


def _inference(body: bytes) -> Any:
    """Of the Open Inference Protocol: the answer is a string in a tensor."""
    return json.loads(json.loads(body)["outputs"][0]["data"][0])


PROTOCOLS = {
    "bentoml": Protocol(lambda image: request("/classify", image, headers={"Content-Type": "image/jpeg"})),
    "litserve": Protocol(_litserve),
    "mlserver": Protocol(_mlserver, _inference),
    "torchserve": Protocol(lambda image: request("/predictions/swin", image)),
}
"""Of peers that have one of their own."""
