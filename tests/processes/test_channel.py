"""`app/processes/channel.py`: messages come whole and in order, however the socket cuts them."""

import asyncio
import random
import socket
import weakref
from functools import partial

import pytest

from app.errors import InternalError, ServiceError
from app.processes.channel import ANSWER, HEAD, ROW, STOP, Channel, outcome_of, refusal
from tests.support.waiting import HANG_SECONDS

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
    one, other = Channel({}, lambda: None), Channel({ROW: heard.append}, ended.set)
    complaints = list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
    await one.open(ours)
    await other.open(theirs)

    one.send(ROW, b"last words")
    one.close()
    await asyncio.wait_for(ended.wait(), HANG_SECONDS)
    other.send(ROW, b"to nobody")
    await asyncio.sleep(0)  # in which it would be sent

    assert heard == [b"last words"]
    assert complaints == []


async def test_what_was_said_before_it_opened_is_heard() -> None:
    """A process that is starting may be spoken to meanwhile."""
    (ours, theirs), heard = socket.socketpair(), asyncio.Event()
    theirs.send(HEAD.pack(STOP, 0))
    late = Channel({STOP: lambda _: heard.set()}, lambda: None)
    await late.open(ours)

    assert await asyncio.wait_for(heard.wait(), HANG_SECONDS)
    late.close()
    theirs.close()


async def test_an_end_lets_go_of_who_listened() -> None:
    """At once, and not when the garbage collector comes: there are megabytes behind it, and it may never come."""

    class Listener:
        def hear(self, _: bytes) -> None:
            """Nothing."""

        def end(self) -> None:
            ended.set()

    (ours, theirs), ended, listener = socket.socketpair(), asyncio.Event(), Listener()
    listener.channel = channel = Channel({ROW: listener.hear}, listener.end)  # type: ignore[attr-defined]  # (a cycle)
    await channel.open(ours)
    gone = weakref.ref(listener)
    del listener
    theirs.close()
    await asyncio.wait_for(ended.wait(), HANG_SECONDS)

    assert gone() is None


def test_a_message_that_cannot_be_handled_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that raises and a kind that does not exist are logged; what follows is handed on."""
    received = list[bytes]()

    def fail(_: bytes) -> None:
        raise MemoryError("no room")

    channel = Channel({ROW: fail, ANSWER: received.append}, lambda: None)
    channel.data_received(b"".join([HEAD.pack(kind, 1) + b"x" for kind in (ROW, 99, ANSWER)]) + HEAD.pack(ANSWER, 1))
    channel.data_received(b"y")

    assert received == [b"x", b"y"]
    assert [record.message for record in caplog.records] == ["message not handled"] * 2


async def test_a_write_that_fails_silences_nobody() -> None:
    """The messages of that write are lost; those sent afterwards go."""
    (ours, theirs), heard = socket.socketpair(), asyncio.Event()
    one, other = Channel({}, lambda: None), Channel({STOP: lambda _: heard.set()}, lambda: None)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    await one.open(ours)
    await other.open(theirs)
    one.send(ROW, "no bytes")  # type: ignore[arg-type]  # (which cannot be joined)
    await asyncio.sleep(0)
    one.send(STOP)

    assert await asyncio.wait_for(heard.wait(), HANG_SECONDS)
    one.close()
    other.close()


@pytest.mark.parametrize("error", [MemoryError(), ValueError("x"), ServiceError("x"), OSError(28, "No space left")])
def test_an_error_without_an_outcome_is_an_internal_error(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged where it is known."""
    outcome = outcome_of(error)

    assert type(refusal(*outcome)) is InternalError
    assert caplog.records[0].exc_info == (type(error), error, None)


def test_an_outcome_that_does_not_exist_is_an_internal_error() -> None:
    """It is answered all the same."""
    assert type(refusal(200, 0.0)) is InternalError
