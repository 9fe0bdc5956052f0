"""Tests of `app/grpc/port.py`: another server on the port after one has ended by itself."""

import asyncio
from typing import NoReturn

import grpc
import pytest

from app.bundle.load import Bundle
from app.errors import StartError
from app.grpc import accepting, port
from app.settings import Settings
from tests.grpc.test_calls import SETTINGS, error_of, hold_engine, requests, start, until
from tests.support.http2 import Http2Client
from tests.support.rpc import RpcClient, rpc_service
from tests.support.waiting import HANG_SECONDS

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not accepting.HAS_NAMES, reason="no call ends a server of this version of grpc"),
]

# The name of an RPC that is not UTF-8.
NO_TEXT = "/\udcff"


@pytest.fixture(autouse=True)
def names_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use servers of grpc as they are, which a client can end."""
    monkeypatch.setattr(accepting, "HAS_NAMES", False)


async def end_server(client: RpcClient) -> None:
    """End the server that listens by a call of one client."""
    with await asyncio.to_thread(Http2Client, client.address) as other:
        other.call(NO_TEXT)
        await asyncio.to_thread(other.ping)


async def is_listening(address: str) -> bool:
    """Return whether a client can connect."""
    try:
        _, writer = await asyncio.open_connection(*address.split(":"))
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


def restarts(caplog: pytest.LogCaptureFixture) -> int:
    """Return how often the log has the restart of a server."""
    return sum(record.message == "gRPC server restarted" for record in caplog.records)


async def test_a_server_that_ends_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    """The service is served again on the same port after each call that ends grpc's loop."""
    async with rpc_service(SETTINGS) as (app, client):
        for count in (1, 2):
            await end_server(client)
            await until(lambda count=count: restarts(caplog) == count)  # type: ignore[misc]
            await client.channel.unary_unary("/grpc.health.v1.Health/Check")(b"", wait_for_ready=True)

        assert app.state.service.is_ready


async def test_calls_in_progress_outlive_their_server(
    demo: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A call gets its response although the server that accepted it has been replaced."""
    async with rpc_service(SETTINGS) as (app, client):
        gate = hold_engine(app, monkeypatch)
        running = start(client, demo)
        await asyncio.to_thread(gate.wait_until_entered)
        await end_server(client)
        await until(lambda: restarts(caplog) == 1)
        gate.open()
        await running

        assert requests(app, 200) == 1


async def test_a_restart_waits_for_an_interval(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that ends each server does not keep the process busy, and the service stops while it waits."""
    monkeypatch.setattr(port, "RESTART_SECONDS", 3600)
    async with rpc_service(SETTINGS) as (_, client):
        await end_server(client)
        async with asyncio.timeout(HANG_SECONDS):
            while await is_listening(client.address):  # noqa: ASYNC110 (grpc reports no event)
                await asyncio.sleep(0.001)

    assert restarts(caplog) == 0


async def test_a_port_that_is_lost_makes_the_service_broken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The service is broken and not ready while no server can listen, and works as soon as one can again."""
    monkeypatch.setattr(port, "RETRY_SECONDS", 0.01)

    def fail(*_: object) -> NoReturn:
        raise StartError

    async with rpc_service(Settings(device="cpu", threads=1)) as (app, client):
        with monkeypatch.context() as patch:
            patch.setattr(port.Port, "_listen", fail)
            await end_server(client)
            await until(lambda: app.state.service.is_broken)
            is_ready = app.state.service.is_ready
        await until(lambda: restarts(caplog) == 1)

        assert (is_ready, app.state.service.is_ready, app.state.service.is_broken) == (False, True, False)


async def test_the_counts_of_calls_add_up_after_a_restart(
    demo: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A call of the old server that its client cancels ends as a cancellation, and nothing is left in progress."""
    async with rpc_service(SETTINGS) as (app, client):
        gate = hold_engine(app, monkeypatch)
        leaving = start(client, demo)
        await asyncio.to_thread(gate.wait_until_entered)
        await end_server(client)
        await until(lambda: restarts(caplog) == 1)
        leaving.cancel()
        await until(lambda: requests(app, 499) == 1)
        gate.open()
        await until(lambda: client.in_progress == 0)
        refused = await error_of(client.channel.unary_unary("/inference.GRPCInferenceService/None")(b""))

        assert refused.code() is grpc.StatusCode.UNIMPLEMENTED
