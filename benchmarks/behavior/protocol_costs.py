"""Cost of an image by protocol, relative to `POST /classify`: `python -m benchmarks.behavior.protocol_costs`.

Measures the CPU time of the service process in `/proc`, per request with one image, in rounds that send each protocol
in turn. The requests are those of the protocols' own clients. The network of the demonstration bundle is small, so the
ratios are the largest that a protocol can have. Each response must be a success.
"""

import argparse
import asyncio
import base64
import json
import statistics
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import grpc
import uvloop

from app.grpc.proto.descriptors import SERVICE_NAME
from app.grpc.proto.inference_pb2 import ModelInferRequest
from app.load.client_pool import ClientPool, request
from benchmarks.load.images import noise, photo
from benchmarks.load.record import record
from benchmarks.load.served import Served

REFERENCE = "POST /classify"
LENGTH = "Inference-Header-Content-Length"
JSON = {"Content-Type": "application/json"}


class Workload(NamedTuple):
    """An image, the number of concurrent clients, and the number of requests in a round."""

    image: bytes
    clients: int
    requests: int


class Row(NamedTuple):
    """The cost of a protocol."""

    milliseconds: float  # CPU time of a request, median of the rounds
    ratio: float  # to the reference of the same round, median
    low: float  # quartiles of the ratio
    high: float


def binary_body(image: bytes) -> tuple[bytes, int]:
    """Return a body as tritonclient sends it, an image as BYTES in their binary form, and the length of its JSON."""
    data = struct.pack("<I", len(image)) + image
    document = {
        "inputs": [
            {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}},
        ],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
    }
    head = json.dumps(document).encode()
    return head + data, len(head)


def http_requests(model: str, image: bytes) -> dict[str, bytes]:
    """Return a request with the image by protocol."""
    text = base64.b64encode(image).decode()
    binary, length = binary_body(image)
    entry = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}

    def document(path: str, content: Mapping[str, Any]) -> bytes:
        return request(path, json.dumps(content).encode(), headers=JSON)

    return {
        REFERENCE: request("/classify", image),
        "/v2, binary BYTES": request(f"/v2/models/{model}/infer", binary, headers={LENGTH: str(length)}),
        "/v2, base64 in JSON": document(f"/v2/models/{model}/infer", {"inputs": [entry | {"data": [text]}]}),
        "/v1, base64 in JSON": document(f"/v1/models/{model}:predict", {"instances": [{"image_bytes": {"b64": text}}]}),
        "Hugging Face, raw": request(f"/models/{model}", image),
        "TorchServe, raw": request(f"/predictions/{model}", image),
    }


def grpc_request(model: str, image: bytes) -> bytes:
    """Return a request of ModelInfer with the image in `raw_input_contents`, as tritonclient sends it."""
    message: bytes = ModelInferRequest(
        model_name=model,
        inputs=[{"name": "image", "datatype": "BYTES", "shape": [1]}],
        raw_input_contents=[struct.pack("<I", len(image)) + image],
    ).SerializeToString()
    return message


async def cost(served: Served, workload: Workload, call: Callable[[], Awaitable[None]]) -> float:
    """Return the CPU milliseconds of the service for a call."""
    left = workload.requests

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    before = served.usage().cpu_seconds
    await asyncio.gather(*(client() for _ in range(workload.clients)))
    return (served.usage().cpu_seconds - before) / workload.requests * 1e3


async def measure(served: Served, workload: Workload, rounds: int) -> dict[str, Row]:
    """Return the cost of each protocol.

    Raises:
        RuntimeError: a request over HTTP failed.
        grpc.RpcError: a call of gRPC failed.
    """
    pool = ClientPool(served.address)
    async with grpc.aio.insecure_channel(served.grpc_address) as channel:
        (model,) = json.loads((await pool.send(request("/v2/repository/index"))).body)[:1]
        infer = channel.unary_unary(f"/{SERVICE_NAME}/ModelInfer")
        message = grpc_request(model["name"], workload.image)

        def over_http(sent: bytes) -> Callable[[], Awaitable[None]]:
            async def call() -> None:
                if (response := await pool.send(sent)).status != HTTPStatus.OK:
                    raise RuntimeError(response.body.decode())

            return call

        async def over_grpc() -> None:
            await infer(message)

        sent = http_requests(model["name"], workload.image)
        calls = {name: over_http(each) for name, each in sent.items()} | {"gRPC, raw": over_grpc}
        for call in calls.values():  # warm-up
            await cost(served, workload, call)
        found: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(rounds):
            names = list(calls)[number % len(calls) :] + list(calls)[: number % len(calls)]
            for name in names if number % 2 else reversed(names):
                found[name].append(await cost(served, workload, calls[name]))
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    pool.close()
    return {name: row(costs, found[REFERENCE]) for name, costs in found.items()}


def row(costs: Sequence[float], reference: Sequence[float]) -> Row:
    """Return the figures of a protocol from its costs in each round, and those of the reference."""
    ratios = [cost / other for cost, other in zip(costs, reference, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Row(round(statistics.median(costs), 3), round(middle, 3), round(low, 3), round(high, 3))


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.behavior.protocol_costs", description=__doc__)
    parser.add_argument("--photo", type=Path, metavar="FILE", help="a photo (default: a drawn JPEG of 500×375)")
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    large = args.photo.read_bytes() if args.photo else photo(500, 375, Random(0))
    workloads = {
        "digit, 1 client": Workload(noise(Random(0)), 1, 1000),
        "digit, 32 clients": Workload(noise(Random(0)), 32, 3000),
        "photo, 32 clients": Workload(large, 32, 300),
    }
    served = Served("--grpc-port", "0", "--threads", "1")
    try:
        figures = {name: uvloop.run(measure(served, each, args.rounds)) for name, each in workloads.items()}
    finally:
        served.stop()
    for name, rows in figures.items():
        print(f"{name:24}   CPU ms   ratio   quartiles")
        for protocol, (milliseconds, ratio, low, high) in rows.items():
            print(f"  {protocol:24}{milliseconds:7.3f}{ratio:8.2f}   {low:.2f} to {high:.2f}")
    tables = {name: {protocol: each._asdict() for protocol, each in rows.items()} for name, rows in figures.items()}
    record("protocol_costs", {"rounds": args.rounds, "workloads": tables})


if __name__ == "__main__":
    main()
