"""Clients of a load: the end of a response, broken responses, and connections that are kept or replaced."""

import asyncio

import pytest
import uvloop

from app.load.client_pool import Broken, Response, request
from tests.support.scripted_server import CLOSE, CONTENT, Script, reply

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
