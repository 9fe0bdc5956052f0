"""Tests of `app/processes/channel.py`, and of the outcomes in `app/processes/messages.py`."""

import asyncio
import random
import socket
import weakref
from functools import partial

import pytest

from app.errors import InternalError, ServiceError
from app.processes.channel import HEADER, Channel
from app.processes.messages import MessageType, decode_error, encode_error
from tests.support.waiting import HANG_SECONDS

pytestmark = pytest.mark.anyio

RESULT, SHUTDOWN, SUBMIT = MessageType.RESULT, MessageType.SHUTDOWN, MessageType.SUBMIT


@pytest.mark.parametrize("max_bytes", [1, 7, 5000, 10**6])
def test_messages_are_whole_however_they_arrive(max_bytes: int) -> None:
    """A stream that is cut anywhere, into pieces of up to `max_bytes`, gives the same messages in the same order."""
    sizes = [(SUBMIT, 0), (RESULT, 13), (SUBMIT, 100_000), (SUBMIT, 1)]
    sent = [(kind, bytes([size % 256]) * size) for kind, size in sizes]
    stream = b"".join(HEADER.pack(kind, len(payload)) + payload for kind, payload in sent)
    chance, received = random.Random(0), list[tuple[int, bytes]]()
    handlers = {
        int(kind): partial(lambda kind, payload: received.append((kind, payload)), kind) for kind in (SUBMIT, RESULT)
    }
    channel, begin = Channel(handlers, lambda: None), 0
    while begin < len(stream):
        end = begin + chance.randint(1, max_bytes)
        channel.data_received(stream[begin:end])
        begin = end

    assert received == sent


async def test_a_close_is_noticed_at_the_other_end() -> None:
    """A message sent before the close arrives, then `on_disconnect` is called; a later message is dropped silently."""
    (one_end, other_end), received, closed = socket.socketpair(), list[bytes](), asyncio.Event()
    one, other = Channel({}, lambda: None), Channel({SUBMIT: received.append}, closed.set)
    complaints = list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
    await one.open(one_end)
    await other.open(other_end)

    one.send(SUBMIT, b"the last message")
    one.close()
    await asyncio.wait_for(closed.wait(), HANG_SECONDS)
    other.send(SUBMIT, b"too late")
    await asyncio.sleep(0)  # the event-loop iteration in which the message would be sent

    assert received == [b"the last message"]
    assert complaints == []


async def test_a_message_sent_before_the_channel_opens_arrives() -> None:
    """The other end may send messages to a process that is still starting."""
    (own_end, other_end), received = socket.socketpair(), asyncio.Event()
    other_end.send(HEADER.pack(SHUTDOWN, 0))
    late = Channel({SHUTDOWN: lambda _: received.set()}, lambda: None)
    await late.open(own_end)

    assert await asyncio.wait_for(received.wait(), HANG_SECONDS)
    late.close()
    other_end.close()


async def test_a_closed_channel_frees_its_handlers_at_once() -> None:
    """The handlers are freed without the garbage collector, which may run much later: they hold megabytes."""

    class Handler:
        def handle(self, _: bytes) -> None:
            """Do nothing."""

        def on_disconnect(self) -> None:
            closed.set()

    (own_end, other_end), closed, handler = socket.socketpair(), asyncio.Event(), Handler()
    channel = Channel({SUBMIT: handler.handle}, handler.on_disconnect)
    handler.channel = channel  # type: ignore[attr-defined]  # (a reference cycle)
    await channel.open(own_end)
    reference = weakref.ref(handler)
    del handler
    other_end.close()
    await asyncio.wait_for(closed.wait(), HANG_SECONDS)

    assert reference() is None


def test_a_message_that_cannot_be_handled_does_not_affect_the_next(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that raises and a kind without a handler are logged, and the next messages are handled."""
    received = list[bytes]()

    def fail(_: bytes) -> None:
        raise MemoryError("no memory")

    channel = Channel({SUBMIT: fail, RESULT: received.append}, lambda: None)
    stream = b"".join([HEADER.pack(kind, 1) + b"x" for kind in (SUBMIT, 99, RESULT)])
    channel.data_received(stream + HEADER.pack(RESULT, 1))
    channel.data_received(b"y")

    assert received == [b"x", b"y"]
    assert [record.message for record in caplog.records] == ["message not handled"] * 2


async def test_a_write_that_fails_does_not_affect_the_next() -> None:
    """The messages of a write that fails are lost, and the messages of the next write arrive."""
    (one_end, other_end), received = socket.socketpair(), asyncio.Event()
    one, other = Channel({}, lambda: None), Channel({SHUTDOWN: lambda _: received.set()}, lambda: None)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    await one.open(one_end)
    await other.open(other_end)
    one.send(SUBMIT, "no bytes")  # type: ignore[arg-type]  # (so that the write fails)
    await asyncio.sleep(0)
    one.send(SHUTDOWN)

    assert await asyncio.wait_for(received.wait(), HANG_SECONDS)
    one.close()
    other.close()


@pytest.mark.parametrize("error", [MemoryError(), ValueError("x"), ServiceError("x"), OSError(28, "No space left")])
def test_an_error_without_an_outcome_is_an_internal_error(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """An error that has no outcome is logged with its stack trace and decodes to `InternalError`."""
    outcome = encode_error(error)

    assert type(decode_error(*outcome)) is InternalError
    assert caplog.records[0].exc_info == (type(error), error, None)


def test_an_unknown_outcome_is_an_internal_error() -> None:
    """An outcome that stands for no error class decodes to `InternalError`."""
    assert type(decode_error(200, 0.0)) is InternalError
