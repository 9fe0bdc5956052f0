"""Tests of `app/grpc/accepting.py`: calls with names and metadata that no library sends."""

import asyncio
import logging
import random
from typing import Any, NoReturn

import pytest
from grpc import StatusCode

from app.grpc import accepting
from tests.grpc.test_calls import CHECK, SETTINGS, count, error_of, requests, until
from tests.support.http2 import Http2Client
from tests.support.rpc import route, rpc_service

pytestmark = pytest.mark.anyio

# Calls of the fuzzer, each with one connection.
CALLS = 200


def fail(*_: object) -> NoReturn:
    """Fail as a constructor with other arguments."""
    raise TypeError


@pytest.mark.skipif(not accepting.HAS_NAMES, reason="this version of grpc decodes the name in the task of the call")
async def test_a_name_that_is_no_text_is_an_unknown_rpc(caplog: pytest.LogCaptureFixture) -> None:
    """A call whose name is not UTF-8 is refused and counted as others, and the server stays."""
    async with rpc_service(SETTINGS) as (app, client):
        with await asyncio.to_thread(Http2Client, client.address) as other:
            other.call("/\udcff")
            other.call(route("ServerLive"))
            await until(lambda: requests(app, 200, "ServerLive") == 1)
        await until(lambda: count(app, "swin_requests_total", route="unknown", code="501") == 1)

    assert [record.message for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.parametrize("change", [("HAS_NAMES", False), ("_Server", fail)])
async def test_other_versions_of_grpc_serve_the_same_rpcs(
    change: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without names of RPCs in grpc, or with other arguments of its server, calls get the same answers."""
    monkeypatch.setattr(accepting, *change)
    async with rpc_service(SETTINGS) as (_, client):
        live = await client.call("ServerLive")
        unknown = await error_of(client.channel.unary_unary(route("TraceSetting"))(b""))

    assert (live.live, unknown.code()) == (True, StatusCode.UNIMPLEMENTED)


@pytest.mark.parametrize("has_names", [accepting.HAS_NAMES, False])
async def test_random_bytes_in_header_sections_leave_the_service_usable(
    has_names: bool,  # noqa: FBT001 (a parameter of the test)
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After calls with random names, authorities and metadata, the service answers. The log has no stack trace."""
    monkeypatch.setattr(accepting, "HAS_NAMES", has_names)
    chance = random.Random(19)
    async with rpc_service(SETTINGS) as (_, client):
        for _ in range(CALLS):
            await asyncio.to_thread(send, client.address, chance)
        await client.channel.unary_unary(CHECK)(b"", wait_for_ready=True)
        await until(lambda: client.in_progress == 0)

    assert not any(record.exc_info for record in caplog.records)
    assert has_names is False or [each for each in caplog.records if each.levelno > logging.INFO] == []


def send(address: str, chance: random.Random) -> None:
    """Send a header section in which some fields have random bytes. The server may refuse or close the connection."""

    def text(most: int) -> str:
        return chance.randbytes(chance.randint(0, most)).decode(errors="surrogateescape")

    fields = {
        name: text(20)
        for name in (":authority", ":method", ":scheme", "te", "content-type", "grpc-encoding", "grpc-timeout")
        if chance.random() < 0.1
    }
    names = ("x-request-id", "traceparent", "tracestate", "authorization", "x-bin", "grpc-trace-bin", text(8))
    fields |= {name: text(40) for name in names if chance.random() < 0.3}
    path = chance.choice((route("ModelReady"), CHECK, "/" + text(30), text(30), route("ServerLive") + "\0", ""))
    try:
        with Http2Client(address) as other:
            other.call(path, chance.randbytes(chance.randint(0, 30)), fields)
            other.ping()
    except (OSError, AssertionError):
        return
