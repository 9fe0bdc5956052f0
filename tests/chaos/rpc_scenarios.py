"""Scenarios of clients of the RPC `ModelInfer`.

Each scenario is a function that runs it once and returns its outcome.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from app.grpc.proto.inference_pb2 import ModelInferRequest
from benchmarks.load.clients import Connection
from benchmarks.load.images import Known
from tests.chaos.bad_files import BAD_FILES
from tests.chaos.client_pool import ClientPool
from tests.chaos.infer_scenarios import MAX_IMAGES, MODEL, is_digit, pixels_of
from tests.chaos.outcomes import BODY_LIMIT, CLIENT_LATE, DISCONNECTED, NO_RESPONSE, REQUEST_TIMEOUT_S
from tests.chaos.relay import Relay
from tests.chaos.rpc_pool import MESSAGE_TIMEOUT, OK, open_channel
from tests.support.rpc import image_request, parameters

# Bytes that a connection carries before the message of its first call, at most: the preface, the
# settings and the metadata.
BYTES_BEFORE_MESSAGE = 1000

# Number of pieces in which a slow client sends a message, and the pause before each of them.
SLOW_PIECES, PAUSE_SECONDS = 15, 0.05


def message_of(*known: Known, is_pixels: bool = False, **values: Any) -> bytes:
    """Return a message with encoded images or with pixels. `values` are its parameters."""
    if is_pixels:
        return pixels_message(known)
    data: bytes = image_request(*(each.data for each in known), parameters=parameters(**values)).SerializeToString()
    return data


def pixels_message(known: Sequence[Known]) -> bytes:
    """Return a message with the pixels of digits."""
    pixels = pixels_of(known)
    entry = {"name": "pixels", "datatype": "UINT8", "shape": pixels.shape}
    data: bytes = ModelInferRequest(
        model_name=MODEL, inputs=[entry], raw_input_contents=[pixels.tobytes()]
    ).SerializeToString()
    return data


def any_message(clients: ClientPool, known: Known) -> bytes:
    """Return a message for one image, in one of the forms."""
    return message_of(known, is_pixels=is_digit(known) and clients.random.random() < 0.5)


# Scenarios of clients that behave well.


async def digit(clients: ClientPool) -> str:
    known = clients.digit()
    return await clients.rpc.start(any_message(clients, known)).outcome(known)


async def photo(clients: ClientPool) -> str:
    known = clients.photo()
    return await clients.rpc.start(any_message(clients, known)).outcome(known)


async def batch(clients: ClientPool) -> str:
    """Send several images in one message; the rows of the output are in their order."""
    known = [clients.digit() for _ in range(clients.random.randint(2, MAX_IMAGES))]
    message = message_of(*known, is_pixels=clients.random.random() < 0.5)
    return await clients.rpc.start(message).outcome(*known)


async def own_channel(clients: ClientPool) -> str:
    known = clients.digit()
    async with open_channel(clients.rpc.address) as channel:
        return await clients.rpc.start(any_message(clients, known), channel=channel).outcome(known)


async def short_deadline(clients: ClientPool) -> str:
    """Give 20 ms as the deadline of the call, or in the message in microseconds."""
    known = clients.random.choice([clients.digit, clients.photo])()
    if clients.random.random() < 0.5:
        return await clients.rpc.start(any_message(clients, known), timeout=0.02).outcome(known)
    return await clients.rpc.start(message_of(known, timeout=20_000)).outcome(known)


# Scenarios of clients that cancel, disconnect or are slow.


async def cancel_while_waiting(clients: ClientPool) -> str:
    """Cancel while the message is sent, or while the image is in a queue or in a batch."""
    known = clients.random.choice([clients.digit, clients.photo])()
    call = clients.rpc.start(any_message(clients, known))
    await asyncio.sleep(clients.random.uniform(0, 0.03))
    await call.cancel()
    return DISCONNECTED


async def cancel_beside(clients: ClientPool) -> str:
    """Cancel one of several calls on the same connection; the others get their results."""
    known = [clients.digit() for _ in range(MAX_IMAGES)]
    channel = clients.rpc.channel
    calls = [clients.rpc.start(any_message(clients, each), channel=channel) for each in known]
    await asyncio.sleep(clients.random.uniform(0, 0.01))
    await calls.pop(place := clients.random.randrange(MAX_IMAGES)).cancel()
    del known[place]
    outcomes = [await call.outcome(each) for call, each in zip(calls, known, strict=True)]
    return next((outcome for outcome in outcomes if outcome != OK), OK)


async def cancel_before_message(clients: ClientPool) -> str:
    call = clients.rpc.start_stream()
    await asyncio.sleep(clients.random.uniform(0, 0.03))
    await call.cancel()
    return DISCONNECTED


async def disconnect_in_message(clients: ClientPool) -> str:
    """Disconnect in the metadata or in the message."""
    message = any_message(clients, clients.photo())
    limit = clients.random.randrange(clients.random.choice([BYTES_BEFORE_MESSAGE, len(message)]))
    async with _relayed(clients, limit=limit) as (relay, channel):
        call = clients.rpc.start(message, channel=channel)
        call.leave()
        stopped = [asyncio.create_task(each) for each in (relay.is_at_limit.wait(), call.end())]
        await asyncio.wait(stopped, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(clients.random.uniform(0, 0.02))
        relay.cut()
        outcome = await call.outcome()
        await asyncio.gather(*(each for each in stopped if each.done()))
        for each in stopped:
            each.cancel()
    return DISCONNECTED if outcome == NO_RESPONSE else outcome


async def disconnect_while_waiting(clients: ClientPool) -> str:
    """Disconnect when the message has been sent, or just before."""
    known = clients.random.choice([clients.digit, clients.photo])()
    async with _relayed(clients) as (relay, channel):
        await channel.channel_ready()
        call = clients.rpc.start(any_message(clients, known), channel=channel)
        call.leave()
        await asyncio.sleep(clients.random.uniform(0, 0.03))
        relay.cut()
        outcome = await call.outcome(known)
    return DISCONNECTED if outcome in {NO_RESPONSE, OK} else outcome


async def slow_message(clients: ClientPool) -> str:
    """Send the message in small pieces, but in time.

    On a busy machine, the client itself can be late. Then its message is late for the service.
    """
    known, began = clients.digit(), time.perf_counter()
    message = any_message(clients, known)
    piece = len(message) // SLOW_PIECES + 1
    async with _relayed(clients, piece=piece, pause=PAUSE_SECONDS) as (_, channel):
        outcome = await clients.rpc.start(message, channel=channel).outcome(known)
    late = outcome == MESSAGE_TIMEOUT and time.perf_counter() - began > REQUEST_TIMEOUT_S / 2
    return CLIENT_LATE if late else outcome


async def stalled_message(clients: ClientPool) -> str:
    """Stop sending in the message, or before it, and wait for the response."""
    if clients.random.random() < 0.5:
        return await clients.rpc.start_stream().outcome()
    message = any_message(clients, clients.photo())
    async with _relayed(clients, limit=clients.random.randrange(BYTES_BEFORE_MESSAGE, len(message))) as (_, channel):
        return await clients.rpc.start(message, channel=channel).outcome()


@contextlib.asynccontextmanager
async def _relayed(clients: ClientPool, **fault: Any) -> AsyncIterator[tuple[Relay, Any]]:
    """Yield a relay with a fault, and a channel through it."""
    host, _, port = clients.rpc.address.rpartition(":")
    async with Relay((host, int(port)), **fault).open() as relay, open_channel(relay.address) as channel:
        yield relay, channel


# Scenarios of clients that send what is no image, no message, or no gRPC.


async def no_message(clients: ClientPool) -> str:
    """End the call without a message."""

    async def nothing() -> AsyncIterator[bytes]:
        return
        yield b""

    return await clients.rpc.start_stream(nothing()).outcome()


async def bad_file(clients: ClientPool) -> str:
    """Send a file that contains no readable image, alone or beside valid images."""
    files = [clients.digit().data for _ in range(clients.random.randrange(3))]
    files.insert(clients.random.randint(0, len(files)), clients.random.choice(BAD_FILES)(clients))
    return await clients.rpc.start(image_request(*files).SerializeToString()).outcome()


async def bad_message(clients: ClientPool) -> str:
    """Send bytes that are no message, or a message that does not follow the protocol."""
    known, random = clients.digit(), clients.random
    message, data = message_of(known), clients.digit().data
    requests = [
        image_request(data, raw_input_contents=[]),
        image_request(data, raw_input_contents=[data]),
        image_request(data, inputs=[]),
        image_request(data, inputs=[{"name": "cat", "datatype": "BYTES", "shape": [1]}]),
        image_request(data, inputs=[{"name": "pixels", "datatype": "UINT8", "shape": [-1, 2**62]}]),
        image_request(data, parameters=parameters(timeout=-1)),
    ]
    bodies = [b"\xff" + random.randbytes(1000), message[: -random.randrange(1, 100)], b"\x0a\x01a" * 2000]
    chosen = random.choice([*bodies, *(each.SerializeToString() for each in requests)])
    return await clients.rpc.start(chosen).outcome()


async def wrong_model(clients: ClientPool) -> str:
    model = clients.random.choice(["", "cats", "digits.encoded.encoded"])
    return await clients.rpc.start(image_request(clients.digit().data, model=model).SerializeToString()).outcome()


async def oversized_message(clients: ClientPool) -> str:
    """Send a message over the limit. grpc refuses it, and cancels the call in the service."""
    call = clients.rpc.start(bytes(BODY_LIMIT + 1))
    call.leave()
    return await call.outcome()


async def damaged_connection(clients: ClientPool) -> str:
    """Invert a byte of the message, or of the frames around it. It may become another image."""
    message = any_message(clients, clients.random.choice([clients.digit, clients.photo])())
    place = clients.random.randrange(BYTES_BEFORE_MESSAGE, BYTES_BEFORE_MESSAGE + len(message))
    async with _relayed(clients, damaged=place) as (_, channel):
        call = clients.rpc.start(message, channel=channel)
        call.leave()
        return await call.outcome()


async def malformed_http(clients: ClientPool) -> str:
    """Send random bytes or HTTP/1.1 to the port of gRPC, or only the start of HTTP/2."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    sent = clients.random.choice(
        [
            clients.random.randbytes(2000),
            b"GET / HTTP/1.1\r\nHost: swin\r\n\r\n",
            preface,
            preface + b"\0\0\0\4\0\0\0\0\0" + clients.random.randbytes(2000),
        ]
    )
    host, _, port = clients.rpc.address.rpartition(":")
    async with clients.connection(Connection.open((host, int(port)))) as connection:
        connection.writer.write(sent)
        await asyncio.sleep(clients.random.uniform(0, 0.1))
        return clients.disconnect(connection)
