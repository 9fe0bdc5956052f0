"""Request and response formats of the compared servers.

Most of them, like swin-serve, take the image as the request body and return JSON.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.load.client_pool import request


@dataclass(frozen=True)
class Protocol:
    """How to encode an image as a request, and how to parse the response body.

    The parsed response holds `predictions`.
    """

    request: Callable[[bytes], bytes] = lambda image: request("/classify", image)
    parse: Callable[[bytes], Any] = json.loads


def _json(path: str, content: Mapping[str, Any]) -> bytes:
    return request(path, json.dumps(content).encode(), headers={"Content-Type": "application/json"})


def _litserve(image: bytes) -> bytes:
    return _json("/classify", {"image": base64.b64encode(image).decode()})


def _mlserver(image: bytes) -> bytes:
    data = [base64.b64encode(image).decode()]
    return _json(
        "/v2/models/swin/infer", {"inputs": [{"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": data}]}
    )


def _parse_inference(body: bytes) -> Any:
    """Parse a response of the Open Inference Protocol: the predictions are a string in a tensor."""
    return json.loads(json.loads(body)["outputs"][0]["data"][0])


# Baselines with a protocol that differs from the default.
PROTOCOLS = {
    "bentoml": Protocol(lambda image: request("/classify", image, headers={"Content-Type": "image/jpeg"})),
    "litserve": Protocol(_litserve),
    "mlserver": Protocol(_mlserver, _parse_inference),
    "torchserve": Protocol(lambda image: request("/predictions/swin", image)),
}
