"""Clients of a load: the end of a response, broken responses, and connections that are kept or replaced."""

import asyncio
import contextlib

import pytest
import uvloop

from app.load import client_pool
from app.load.client_pool import Broken, ClientPool, Response, request
from tests.support.scripted_server import CLOSE, CONTENT, Script, reply
from tests.support.waiting import HANG_SECONDS

RIGHT = b'{"predictions": []}'


def send(script: Script, times: int = 1) -> list[Response]:
    """Send requests one after the other, and return their responses."""

    async def calls() -> list[Response]:
        async with script.client_pool() as pool:
            return [await pool.send(request("/classify", CONTENT)) for _ in range(times)]

    return uvloop.run(calls())


def test_a_response_may_arrive_in_pieces() -> None:
    """Its end follows from its Content-Length, however the network splits it."""
    assert send(Script(reply(RIGHT), piece=7)) == [Response(200, RIGHT)]


def test_a_response_may_be_chunked() -> None:
    """A chunked body is joined, even if it arrives in pieces."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (RIGHT[:20], RIGHT[20:], b""))

    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    assert send(Script(head + chunks, piece=9)) == [Response(200, RIGHT)]


@pytest.mark.parametrize("response", [CLOSE, b"HTTP/1.1 200 OK\r\n\r\nfor ever", reply(RIGHT)[:-1]])
def test_an_incomplete_response_is_an_error(response: bytes) -> None:
    """A connection that ends early, and a response without a length, raise `Broken`."""
    with pytest.raises(Broken):
        send(Script(response))


def test_a_connection_that_the_server_closes_is_not_reused() -> None:
    """After `Connection: close`, the next request opens another connection and is not lost."""
    script = Script(reply(RIGHT, fields=b"connection: close\r\n"), reply(RIGHT))

    assert len(send(script, 2)) == 2
    assert script.connections == 2


def test_a_connection_is_reused() -> None:
    """There are as many connections as concurrent requests, not as many as requests."""
    script = Script(*[reply(RIGHT)] * 5)

    assert len(send(script, 5)) == 5
    assert script.connections == 1


def test_an_interim_response_is_no_response() -> None:
    """A response of 1xx comes before the one that counts."""
    assert send(Script(b"HTTP/1.1 100 Continue\r\n\r\n" + reply(RIGHT))) == [Response(200, RIGHT)]


def test_a_connection_whose_request_is_cancelled_is_not_reused() -> None:
    """Its response may still arrive, and would answer the next request."""
    script = Script(reply(b"late"), reply(RIGHT), is_held=True)

    async def calls() -> Response:
        async with script.client_pool() as pool:
            given_up = asyncio.create_task(pool.send(request("/classify", CONTENT)))
            await script.received.wait()
            given_up.cancel()
            await asyncio.wait([given_up])
            script.release.set()
            return await pool.send(request("/classify", CONTENT))

    assert uvloop.run(calls()) == Response(200, RIGHT)
    assert script.connections == 2


def test_requests_beyond_the_limit_wait_for_a_client() -> None:
    """A pool opens no more connections than its limit."""
    script = Script(*[reply(RIGHT)] * 6)

    async def calls() -> list[Response]:
        async with script.client_pool(limit=2) as pool:
            return await asyncio.gather(*(pool.send(request("/classify", CONTENT)) for _ in range(6)))

    assert len(uvloop.run(calls())) == 6
    assert script.connections == 2


def test_requests_that_wait_for_a_client_are_cancelled_at_once() -> None:
    """The turn of a cancelled request goes on to the next one, so that no client is lost."""
    script = Script(reply(b"late"), reply(RIGHT), is_held=True)

    async def calls() -> Response:
        async with script.client_pool(limit=1) as pool:
            first = asyncio.create_task(pool.send(request("/classify", CONTENT)))
            await script.received.wait()
            waiting = [asyncio.create_task(pool.send(request("/classify", CONTENT))) for _ in range(3)]
            await asyncio.sleep(0)
            for task in waiting[:2]:
                task.cancel()
            await asyncio.wait(waiting[:2])
            script.release.set()
            await first
            return await waiting[2]

    assert uvloop.run(calls()) == Response(200, RIGHT)


def test_a_turn_that_comes_with_the_cancellation_goes_on() -> None:
    """If a request gets its turn and is cancelled in the same iteration, the next request gets the turn."""

    async def turns() -> None:
        pool = ClientPool(("127.0.0.1", 9), limit=1)
        await pool._take_turn()  # noqa: SLF001 (no request can be cancelled at this moment from outside)
        second, third = (asyncio.create_task(pool._take_turn()) for _ in range(2))  # noqa: SLF001 (likewise)
        await asyncio.sleep(0)
        pool._end_turn()  # noqa: SLF001 (likewise)
        second.cancel()
        await asyncio.wait_for(third, HANG_SECONDS)
        assert second.cancelled()

    uvloop.run(turns())


def test_content_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A response that is longer than the limit ends the connection, before it fills the memory."""
    monkeypatch.setattr(client_pool, "MAX_CONTENT_BYTES", 100)

    with pytest.raises(Broken, match="the response is longer than"):
        send(Script(reply(bytes(101))))


def test_a_connection_whose_request_is_cancelled_is_closed_at_once() -> None:
    """Bytes that are not sent yet do not keep the connection open: a service may never read them."""
    content = bytes(64 * 2**20)  # more than the buffers of the kernel hold

    async def received() -> int:
        arrived = asyncio.Event()
        ends = list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ends.append((reader, writer))
            arrived.set()

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            pool = ClientPool(server.sockets[0].getsockname())
            task = asyncio.create_task(pool.send(request("/classify", content)))
            await arrived.wait()
            ((reader, writer),) = ends
            await reader.readexactly(1)  # the request is on its way
            task.cancel()
            await asyncio.wait([task])
            with contextlib.closing(writer), contextlib.suppress(ConnectionResetError):
                return len(await reader.read())
        return 0

    assert uvloop.run(received()) < len(content) - 1
