"""Scenarios of clients of `POST /v2/models/{name}/infer`.

Each scenario is a function that runs it once and returns its outcome.
"""

import base64
import gzip
import io
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.load.images import Known
from tests.chaos.bad_files import BAD_FILES
from tests.chaos.client_pool import ClientPool
from tests.chaos.outcomes import BODY_LIMIT, WRONG_RESPONSE
from tests.chaos.results import are_results, logits_of

MODEL, ENCODED = "digits", "digits.encoded"
BINARY = {"Content_Type": "application/octet-stream"}
MAX_IMAGES = 4


class Message(NamedTuple):
    """A request to infer: its body, its header fields, and the model in its path."""

    body: bytes
    headers: Mapping[str, str]
    model: str = MODEL

    def sent(self, clients: ClientPool) -> bytes:
        """Return the bytes of a request with an id of its own."""
        return clients.request(f"/v2/models/{self.model}/infer", self.body, **self.headers)


def is_digit(known: Known) -> bool:
    """Return whether an image has the size of the model's input, so that its pixels are known."""
    return known.data.startswith(b"\x89PNG")


def pixels_of(known: Sequence[Known]) -> NDArray[np.uint8]:
    """Return the pixels of digits: (images, 32, 32, 3)."""
    return np.stack([np.asarray(Image.open(io.BytesIO(each.data)).convert("RGB")) for each in known])


def encoded(files: Sequence[bytes]) -> bytes:
    """Return elements of BYTES in their binary form."""
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def as_json(files: Sequence[bytes], **parameters: Any) -> Message:
    """Return encoded images in base64, within the JSON document."""
    entry = _image_entry(files, content_type="base64")
    data = [base64.b64encode(file).decode() for file in files]
    return Message(_document(entry | {"data": data}, parameters), {"Content_Type": "application/json"})


def as_binary(files: Sequence[bytes], **parameters: Any) -> Message:
    """Return encoded images behind the JSON document, and request a binary output."""
    data = encoded(files)
    return _with_binary(_image_entry(files, binary_data_size=len(data)), data, parameters)


def as_gzip(files: Sequence[bytes]) -> Message:
    """Return encoded images in a body that is compressed."""
    message = as_json(files)
    return message._replace(
        body=gzip.compress(message.body, compresslevel=1), headers={**message.headers, "Content_Encoding": "gzip"}
    )


def as_pixels(known: Sequence[Known]) -> Message:
    """Return pixels behind the JSON document, and request a binary output."""
    pixels = pixels_of(known)
    return _with_binary(_pixels_entry(pixels, parameters={"binary_data_size": pixels.size}), pixels.tobytes(), {})


def as_numbers(known: Sequence[Known]) -> Message:
    """Return pixels as numbers within the JSON document."""
    pixels = pixels_of(known)
    document = _document(_pixels_entry(pixels, data=pixels.ravel().tolist()), {})
    return Message(document, {"Content_Type": "application/json"})


def as_raw_pixels(known: Sequence[Known]) -> Message:
    """Return pixels as the whole body."""
    return Message(pixels_of(known).tobytes(), {**BINARY, "Inference_Header_Content_Length": "0"})


def as_raw_file(file: bytes) -> Message:
    """Return an encoded image as the whole body."""
    return Message(file, {**BINARY, "Inference_Header_Content_Length": "0"}, ENCODED)


def _image_entry(files: Sequence[bytes], **parameters: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "BYTES", "shape": [len(files)], "parameters": parameters}


def _pixels_entry(pixels: NDArray[np.uint8], **members: Any) -> dict[str, Any]:
    return {"name": "pixels", "datatype": "UINT8", "shape": pixels.shape, **members}


def _with_binary(entry: Mapping[str, Any], data: bytes, parameters: Mapping[str, Any]) -> Message:
    document = _document(entry, {"binary_data_output": True, **parameters})
    return Message(document + data, {**BINARY, "Inference_Header_Content_Length": str(len(document))})


def _document(entry: Mapping[str, Any], parameters: Mapping[str, Any]) -> bytes:
    return json.dumps({"parameters": parameters, "inputs": [entry]}).encode()


# The forms of a request with several images: encoded, and pixels.
FILE_FORMS: Sequence[Callable[[Sequence[bytes]], Message]] = [as_json, as_binary, as_gzip]
PIXEL_FORMS: Sequence[Callable[[Sequence[Known]], Message]] = [as_pixels, as_numbers, as_raw_pixels]


def infer_request(clients: ClientPool, known: Known) -> bytes:
    """Return the bytes of a request for one image, in one of the forms."""
    if is_digit(known) and clients.random.random() < 0.5:
        return clients.random.choice(PIXEL_FORMS)([known]).sent(clients)
    if clients.random.random() < 0.2:
        return as_raw_file(known.data).sent(clients)
    return clients.random.choice(FILE_FORMS)([known.data]).sent(clients)


# Scenarios of clients that behave well.


async def digit(clients: ClientPool) -> str:
    known = clients.digit()
    return await clients.ask(infer_request(clients, known), known)


async def photo(clients: ClientPool) -> str:
    known = clients.photo()
    return await clients.ask(infer_request(clients, known), known)


async def batch(clients: ClientPool) -> str:
    """Send several images in one request; the rows of the output are in their order."""
    known = [clients.digit() for _ in range(clients.random.randint(2, MAX_IMAGES))]
    if clients.random.random() < 0.5:
        sent = clients.random.choice(PIXEL_FORMS)(known).sent(clients)
    else:
        sent = clients.random.choice(FILE_FORMS)([each.data for each in known]).sent(clients)
    reply = await clients.callers.ask(sent)
    outcome = clients.outcome_of(reply, sent)
    return WRONG_RESPONSE if outcome == "200" and not are_results(logits_of(reply), known) else outcome


async def short_deadline(clients: ClientPool) -> str:
    """Give 20 ms in the header section, or in the message in microseconds."""
    known = clients.random.choice([clients.digit, clients.photo])()
    message = as_binary([known.data], timeout=20_000)
    if clients.random.random() < 0.5:
        message = as_raw_file(known.data)
        message = message._replace(headers={**message.headers, "X_Request_Timeout": "0.02"})
    return await clients.ask(message.sent(clients), known)


# Scenarios of clients that send what is no valid request.


async def bad_file(clients: ClientPool) -> str:
    """Send a file that contains no readable image, alone or beside valid images."""
    files = [clients.digit().data for _ in range(clients.random.randrange(3))]
    files.insert(clients.random.randint(0, len(files)), clients.random.choice(BAD_FILES)(clients))
    return await clients.ask(clients.random.choice(FILE_FORMS)(files).sent(clients))


async def bad_body(clients: ClientPool) -> str:
    """Send a body that does not follow the protocol."""
    known, random = clients.digit(), clients.random
    binary, compressed, pixels = as_binary([known.data]), as_gzip([known.data]), as_raw_pixels([known])
    lengths = ["x", "-1", "1e3", str(len(binary.body) + 1), "9" * 30, "1"]
    message = random.choice(
        [
            binary._replace(body=binary.body[: -random.randrange(1, 100)]),  # ends in the middle
            binary._replace(body=binary.body + random.randbytes(10)),
            binary._replace(headers={**BINARY, "Inference_Header_Content_Length": random.choice(lengths)}),
            binary._replace(headers=BINARY),  # the image as a part of the JSON document
            compressed._replace(body=compressed.body[: -random.randrange(1, 100)]),
            compressed._replace(body=random.randbytes(1000)),
            pixels._replace(body=pixels.body[1:]),
            Message(random.randbytes(1000), {}),
            Message(b"[" * 10_000, {}),
            Message(b"", {}),
            Message(b'{"inputs": []}', {}),
            Message(_document({"name": "cat", "datatype": "BYTES", "shape": [1], "data": ["x"]}, {}), {}),
            Message(_document({"name": "pixels", "datatype": "UINT8", "shape": [-1, 2**62], "data": [1]}, {}), {}),
        ]
    )
    return await clients.ask(message.sent(clients))


async def wrong_model(clients: ClientPool) -> str:
    message = as_binary([clients.digit().data])
    model = clients.random.choice(["cats", "digits.encoded.encoded", "digits%20"])
    return await clients.ask(message._replace(model=model).sent(clients))


async def compressed_bomb(clients: ClientPool) -> str:
    """Send a small body that is over the limit when it is decompressed."""
    return await clients.ask(Message(_bomb(), {"Content_Encoding": "gzip"}).sent(clients))


@cache
def _bomb() -> bytes:
    return gzip.compress(bytes(BODY_LIMIT + 1), compresslevel=1)
