"""Tests of the timeouts of connections: a stall of the event loop does not count as the client's time."""

from types import SimpleNamespace
from typing import Any

import pytest

from app.server.protocol import Connection
from app.server.server import Server, uvicorn_config
from app.settings import Settings
from tests.support.wire import METRICS, Wire, echo

pytestmark = pytest.mark.anyio

BEGINNING = b"GET /health/live HTTP/1.1\r\nHo"
TIMEOUT = 10


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of servers and connections. The event loop has its own."""
    clock = Clock()
    for module in ("app.server.server", "app.server.protocol"):
        monkeypatch.setattr(f"{module}.time", clock)
    return clock


async def opened(clock: Clock) -> tuple[Server, Connection, Wire]:
    """Return a server after its first check, with one connection that has received half a header section."""
    settings = Settings(header_timeout=TIMEOUT)
    service: Any = SimpleNamespace(metrics=METRICS, is_draining=False)
    server = Server(config := uvicorn_config(echo, settings), settings, service)
    config.load()
    connection, wire = Connection(config, server.server_state, {}), Wire()
    connection.connection_made(wire)
    await server.on_tick(0)
    connection.data_received(BEGINNING)
    clock.now += 1
    await server.on_tick(10)
    return server, connection, wire


@pytest.mark.parametrize("stall", [TIMEOUT, 100 * TIMEOUT])
async def test_a_client_is_not_refused_for_a_stall_of_the_event_loop(clock: Clock, stall: int) -> None:
    """After a stall, the rest of a request that waits in the socket is still read."""
    server, connection, wire = await opened(clock)
    clock.now += 1 + stall
    await server.on_tick(20)

    assert wire.sent == b""
    connection.data_received(b"st: x\r\n\r\n")
    assert connection.cycle is not None
    connection.connection_lost(None)


@pytest.mark.parametrize("stall", [0, 100 * TIMEOUT])
async def test_a_client_that_is_slow_is_refused(clock: Clock, stall: int) -> None:
    """After a stall, the client has the rest of `header_timeout` and then gets 408, with a Date field."""
    server, connection, wire = await opened(clock)
    clock.now += stall
    for second in range(TIMEOUT):
        assert wire.sent == b"", second
        clock.now += 1
        await server.on_tick(10 * second)

    assert wire.sent.startswith(b"HTTP/1.1 408 ")
    assert b"\r\ndate: " in wire.sent
    connection.connection_lost(None)
