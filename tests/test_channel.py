"""`app/channel.py`: messages come whole and in order, however the socket cuts them."""

import asyncio
import random
import socket
from functools import partial

import pytest

from app.channel import ANSWER, HEAD, ROW, Channel, opened

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("most", [1, 7, 5000, 10**6])
def test_messages_are_whole_however_they_arrive(most: int) -> None:
    """Cut anywhere, in pieces of up to so many bytes, the same messages come out."""
    sent = [(kind, bytes([size % 256]) * size) for kind, size in [(ROW, 0), (ANSWER, 13), (ROW, 100_000), (ROW, 1)]]
    stream = b"".join(HEAD.pack(kind, len(payload)) + payload for kind, payload in sent)
    chance, received = random.Random(0), list[tuple[int, bytes]]()
    handlers = {kind: partial(lambda kind, payload: received.append((kind, payload)), kind) for kind in (ROW, ANSWER)}
    channel, begin = Channel(handlers, lambda: None), 0
    while begin < len(stream):
        end = begin + chance.randint(1, most)
        channel.data_received(stream[begin:end])
        begin = end

    assert received == sent


async def test_an_end_that_closes_is_noticed_by_the_other() -> None:
    """What was sent before it arrives, and then its end; what is sent afterwards is dropped without a word."""
    (ours, theirs), heard, ended = socket.socketpair(), list[bytes](), asyncio.Event()
    one = await opened(ours, {}, lambda: None)
    other = await opened(theirs, {ROW: heard.append}, ended.set)

    one.send(ROW, b"last words")
    one.close()
    await asyncio.wait_for(ended.wait(), 10)
    other.send(ROW, b"to nobody")

    assert heard == [b"last words"]
