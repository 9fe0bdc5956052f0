"""A fuzzer of requests for inference: damages headers, lengths, JSON and tensors, and checks the responses.

For any body, the service must answer with outputs or with an error of the client, and with the same
outputs among other requests as alone. `python -m tests.fuzz.infer_bodies 100000` takes several minutes.
Each request depends only on the seed and its number, so a finding can be reproduced:
`python -m tests.fuzz.infer_bodies --only NUMBER`.
"""

import argparse
import asyncio
import base64
import gzip
import json
import multiprocessing
import os
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

import numpy as np
from fastapi import FastAPI

from app.images.preprocess import decode_pixels
from app.main import create_app
from app.protocols.tensors import LENGTH, from_binary
from app.settings import DEMO_BUNDLE, Settings
from app.system.processes import peak_rss

# Requests that are answered side by side, so that they share batches.
SIDE_BY_SIDE = 8

# Peak resident bytes of the process. Python, the libraries and the service take 200 MB of them.
MAX_MEMORY = 600 * 2**20

# A difference of logits by the other images of the batch. Different images differ by more than 1.
TOLERANCE = 1e-3

HEADER = b"inference-header-content-length"
NAMES = ("digits", "digits.encoded")
NUMBERS: Sequence[Any] = (
    -1,
    0,
    1,
    2,
    255,
    256,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    2**70,
    1.5,
    True,
    None,
    "1",
    [],
    {},
)
TEXTS = (
    "",
    "image",
    "pixels",
    "logits",
    "BYTES",
    "UINT8",
    "FP32",
    "base64",
    "\0",
    "é" * 200,
    "http://x/y.png",
    "a" * 9000,
)


class Call(NamedTuple):
    """One request."""

    path: str
    headers: dict[bytes, bytes]
    body: bytes


class Reply(NamedTuple):
    """One response."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class Outcome(NamedTuple):
    """The outcome of one request."""

    number: int
    kind: str  # the form of the original request
    result: str  # the status and code of the response, or a finding in words
    is_finding: bool = False


class Samples:
    """The golden samples of the demonstration bundle, encoded and as pixels."""

    def __init__(self) -> None:
        from app.bundle.load import load_bundle  # noqa: PLC0415 (reads the bundle)

        recipe = load_bundle(DEMO_BUNDLE).manifest.preprocessing
        self.images = [path.read_bytes() for path in sorted((DEMO_BUNDLE / "golden").glob("*.png"))]
        self.pixels = [np.ascontiguousarray(decode_pixels(image, recipe)) for image in self.images]


def as_json(samples: Samples, draw: Random) -> Call:
    """Return images in base64, in JSON."""
    images = draw.choices(samples.images, k=draw.randint(1, 4))
    entry = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(images), *draw.choice([[], [1]])],
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode() for image in images],
    }
    return Call(infer_path(draw), {}, json.dumps(message_of(entry, draw)).encode())


def as_numbers(samples: Samples, draw: Random) -> Call:
    """Return the pixels of one image as JSON numbers."""
    pixels = draw.choice(samples.pixels)
    data = pixels.tolist() if draw.random() < 0.5 else pixels.ravel().tolist()
    entry = {"name": "pixels", "datatype": "UINT8", "shape": [1, *pixels.shape], "data": data}
    return Call(infer_path(draw), {}, json.dumps(message_of(entry, draw)).encode())


def as_binary(samples: Samples, draw: Random) -> Call:
    """Return images, or pixels, in their binary form behind JSON."""
    count = draw.randint(1, 4)
    if draw.random() < 0.5:
        chosen = draw.choices(samples.images, k=count)
        data = b"".join(LENGTH.pack(len(image)) + image for image in chosen)
        entry: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [count]}
    else:
        pixels = draw.choices(samples.pixels, k=count)
        data = b"".join(each.tobytes() for each in pixels)
        entry = {"name": "pixels", "datatype": "UINT8", "shape": [count, *pixels[0].shape]}
    entry["parameters"] = {"binary_data_size": len(data)}
    document = json.dumps(message_of(entry, draw)).encode()
    return Call(infer_path(draw), {HEADER: str(len(document)).encode()}, document + data)


def as_raw(samples: Samples, draw: Random) -> Call:
    """Return a body that is the only input."""
    if draw.random() < 0.5:
        return Call("/v2/models/digits.encoded/infer", {HEADER: b"0"}, draw.choice(samples.images))
    return Call("/v2/models/digits/infer", {HEADER: b"0"}, draw.choice(samples.pixels).tobytes())


def as_instances(samples: Samples, draw: Random) -> Call:
    """Return a request of KServe V1."""
    texts = [base64.b64encode(image).decode() for image in draw.choices(samples.images, k=draw.randint(1, 3))]
    forms: Sequence[Callable[[str], Any]] = (
        lambda text: {"data": text},
        lambda text: {"b64": text},
        lambda text: {"image_bytes": {"b64": text}},
    )
    body = json.dumps({"instances": [draw.choice(forms)(text) for text in texts]}).encode()
    return Call("/v1/models/digits:predict", {}, body)


def as_inputs(samples: Samples, draw: Random) -> Call:
    """Return a request of Hugging Face."""
    message = {
        "inputs": base64.b64encode(draw.choice(samples.images)).decode(),
        "parameters": {"top_k": draw.randint(1, 12), "function_to_apply": draw.choice(["none", "softmax", "sigmoid"])},
    }
    path = draw.choice(["/", "/models/digits"])
    return Call(path, {b"content-type": b"application/json"}, json.dumps(message).encode())


FORMS = (as_json, as_numbers, as_binary, as_binary, as_raw, as_instances, as_inputs)


def infer_path(draw: Random) -> str:
    """Return a path of inference."""
    return f"/v2/models/{draw.choice(NAMES)}{draw.choice(['', '/versions/1'])}/infer"


def message_of(entry: dict[str, Any], draw: Random) -> dict[str, Any]:
    """Return a request with one input, and with outputs and parameters by chance."""
    message: dict[str, Any] = {"inputs": [entry]}
    if draw.random() < 0.5:
        message["id"] = str(draw.random())
    if draw.random() < 0.5:
        outputs: list[dict[str, Any]] = [{"name": "logits"}]
        if draw.random() < 0.5:
            outputs[0]["parameters"] = {"classification": draw.randint(0, 12), "binary_data": draw.random() < 0.5}
        if draw.random() < 0.3:
            outputs.append({"name": "embedding"})
        message["outputs"] = outputs
    if draw.random() < 0.3:
        message["parameters"] = {"binary_data_output": draw.random() < 0.5, "priority": draw.randint(0, 3)}
    return message


def damage(call: Call, draw: Random) -> Call:
    """Return the request with up to three changes; one of eight requests stays as it is."""
    for _ in range(draw.choice((0, 1, 1, 1, 1, 2, 2, 3))):
        call = draw.choice(DAMAGES)(call, draw)
    return call


def change_bytes(call: Call, draw: Random) -> Call:
    """Change, remove or insert bytes of the body."""
    body = bytearray(call.body)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(body) + 1)
        body[place : place + draw.randint(0, 8)] = draw.randbytes(draw.randint(0, 8))
    return call._replace(body=bytes(body))


def cut(call: Call, draw: Random) -> Call:
    """Cut the body, or add bytes to it."""
    if draw.random() < 0.5:
        return call._replace(body=call.body[: draw.randrange(len(call.body) + 1)])
    return call._replace(body=call.body + draw.randbytes(draw.choice((1, 4, 1000))))


def change_header(call: Call, draw: Random) -> Call:
    """Set another length of the JSON document, or none."""
    values = [b"", b"0", b"1", b"-1", b"12abc", b"9" * 30, str(len(call.body)).encode(), b"\xff"]
    near = (
        str(max(int(call.headers.get(HEADER, b"9")[:9] or b"0") + draw.choice((-1, 1)), 0))
        if _has_length(call)
        else "7"
    )
    return call._replace(headers=call.headers | {HEADER: draw.choice([*values, near.encode()])})


def compress(call: Call, draw: Random) -> Call:
    """Compress the body, sometimes with the wrong name of the coding."""
    packed = gzip.compress(call.body) if draw.random() < 0.5 else zlib.compress(call.body)
    coding = draw.choice([b"gzip", b"deflate", b"gzip", b"br", b"gzip, gzip"])
    return call._replace(body=packed, headers=call.headers | {b"content-encoding": coding})


def change_length(call: Call, draw: Random) -> Call:
    """Change four bytes of the body to a boundary of an unsigned integer."""
    if len(call.body) < LENGTH.size:
        return call
    body = bytearray(call.body)
    struct.pack_into("<I", body, draw.randrange(len(body) - 3), draw.choice((0, 1, 2**31, 2**32 - 1)))
    return call._replace(body=bytes(body))


def change_json(call: Call, draw: Random) -> Call:
    """Replace, remove, repeat or nest a value of the JSON document, and correct the length in the header."""
    length = int(call.headers[HEADER]) if _has_length(call) else len(call.body)
    try:
        document = json.loads(call.body[:length])
    except ValueError:
        return call
    places = list(_places(document))
    if not places:
        return call
    container, key = draw.choice(places)
    change = draw.randrange(5)
    if change == 0:
        container[key] = draw.choice(NUMBERS)
    elif change == 1:
        container[key] = draw.choice(TEXTS)
    elif change == 2:
        container[key] = [container[key]] * draw.randint(0, 3)
    elif change == 3:
        del container[key]
    else:
        container[key] = {draw.choice(TEXTS): container[key]}
    changed = json.dumps(document).encode()
    headers = call.headers | ({HEADER: str(len(changed)).encode()} if HEADER in call.headers else {})
    return call._replace(body=changed + call.body[length:], headers=headers)


DAMAGES = (change_bytes, cut, change_header, compress, change_length, change_json, change_json, change_json)


def _has_length(call: Call) -> bool:
    value = call.headers.get(HEADER, b"")
    return value.isdigit() and int(value) <= len(call.body)


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Yield the places of a JSON document in which a value can be changed, at most a hundred of each list."""
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 100)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        if depth < 5:
            yield from _places(value[key], depth + 1)


async def send(app: FastAPI, call: Call) -> Reply:
    """Send a request to the application, without a socket."""
    start: dict[str, Any] = {}
    parts: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": call.body, "more_body": False}

    async def take(message: Any) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            parts.append(message.get("body", b""))

    headers = [(b"content-length", str(len(call.body)).encode()), *call.headers.items()]
    scope = {"type": "http", "method": "POST", "path": call.path, "query_string": b"", "headers": headers, "state": {}}
    await app(scope, receive, take)
    return Reply(start["status"], dict(start["headers"]), b"".join(parts))


def values_of(reply: Reply) -> Any:
    """Return the JSON of a response, in which each output has its values, binary or not, as `data`."""
    length = int(reply.headers.get(HEADER, b"0")) or len(reply.body)
    document, rest = json.loads(reply.body[:length]), memoryview(reply.body)[length:]
    for output in document.get("outputs", []) if isinstance(document, dict) else []:
        if (size := output.pop("parameters", {}).get("binary_data_size")) is not None:
            raw, rest = rest[:size], rest[size:]
            is_float = output["datatype"] == "FP32"
            shape = output["shape"]
            output["data"] = (
                np.frombuffer(raw, "<f4").tolist() if is_float else from_binary("", "BYTES", shape, raw).data
            )
        if output["datatype"] == "BYTES":
            output["data"] = classes_of(output["data"])
    assert not rest, "the response is longer than its outputs"
    return document


def classes_of(texts: Sequence[str | bytes]) -> list[list[Any]]:
    """Return the classes in an output, each `logit:index:label`, sorted by index: close logits can change places."""
    parts = [(text.decode() if isinstance(text, bytes) else text).split(":", 1) for text in texts]
    return sorted([[label, float(logit)] for logit, label in parts])


def equal(one: Any, other: Any) -> bool:
    """Return whether two results are equal, except for small differences of numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= TOLERANCE
    return bool(one == other)


def judge(number: int, kind: str, among_others: Reply, alone: Reply) -> Outcome:
    """Return the outcome of a request that was sent twice."""
    status = among_others.status
    if status >= 500 and status != 501:
        return Outcome(number, kind, f"{status}: {among_others.body[:200]!r}", is_finding=True)
    if status != alone.status:
        return Outcome(number, kind, f"{status} among others, {alone.status} alone", is_finding=True)
    if status != 200:
        return Outcome(number, kind, f"{status} {json.loads(among_others.body)['code']}")
    try:
        is_same = equal(values_of(among_others), values_of(alone))
    except (AssertionError, ValueError, KeyError) as error:
        return Outcome(number, kind, f"the response cannot be read: {error}", is_finding=True)
    return (
        Outcome(number, kind, "200", is_finding=False)
        if is_same
        else Outcome(number, kind, "other outputs among others than alone", is_finding=True)
    )


def request_of(samples: Samples, seed: int, number: int) -> tuple[str, Call]:
    """Return the form and the request of a number."""
    draw = Random(f"{seed} {number}")
    form = FORMS[number % len(FORMS)]
    return form.__name__, damage(form(samples, draw), draw)


async def attack(seed: int, numbers: Sequence[int], on_progress: Callable[[int], None]) -> list[Outcome]:
    """Send requests side by side, each of them also alone, and return the outcomes."""
    app, samples, outcomes = create_app(Settings(device="cpu", threads=1)), Samples(), list[Outcome]()
    async with app.router.lifespan_context(app):
        for first in range(0, len(numbers), SIDE_BY_SIDE):
            group = [(number, *request_of(samples, seed, number)) for number in numbers[first : first + SIDE_BY_SIDE]]
            among_others = await asyncio.gather(*(send(app, call) for _, _, call in group))
            for (number, kind, call), reply in zip(group, among_others, strict=True):
                outcomes.append(judge(number, kind, reply, await send(app, call)))
            on_progress(len(outcomes))
    return outcomes


def attack_in_another_process(seed: int, count: int) -> tuple[list[Outcome], int]:
    """Return the outcomes of the first requests, and the peak memory of the process in bytes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured_attack, (seed, count))


def _measured_attack(seed: int, count: int) -> tuple[list[Outcome], int]:
    return asyncio.run(attack(seed, range(count), lambda _: None)), peak_rss(os.getpid())


def main() -> int:
    """Run the command. Returns 1 if there is a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.infer_bodies", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=100_000, metavar="N", help="number of requests")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="send one request again, and show its outcome")
    options = parser.parse_args()
    numbers = range(options.count) if options.only is None else [options.only]
    started = time.monotonic()

    def show(done: int) -> None:
        if done % 10_000 < SIDE_BY_SIDE:
            print(f"{done} requests, {time.monotonic() - started:.0f} s", file=sys.stderr)

    outcomes = asyncio.run(attack(options.seed, numbers, show))
    findings = [outcome for outcome in outcomes if outcome.is_finding]
    for result, number in Counter(outcome.result for outcome in outcomes if not outcome.is_finding).most_common():
        print(f"{number:8}  {result}")
    for finding in findings:
        print(f"FINDING {finding.number} ({finding.kind}): {finding.result}")
    memory = peak_rss(os.getpid())
    print(f"{len(outcomes)} requests, {len(findings)} findings, {memory / 2**20:.0f} MiB at most")
    return 1 if findings or memory > MAX_MEMORY else 0


if __name__ == "__main__":
    sys.exit(main())
