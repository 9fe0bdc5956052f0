"""SIGTERM under full load: every accepted request gets a response, over HTTP and over gRPC."""

import asyncio
import signal
from random import Random
from typing import NamedTuple

import pytest
import uvloop

from benchmarks.load.served import START_SECONDS, Served
from tests.chaos.stop_load import CLIENTS, Load


class Stop(NamedTuple):
    """The result of a stop."""

    code: int  # of the process
    responses: dict[str, int]  # allowed ones by protocol
    bad: list[str]  # other outcomes


async def stop_under_load(seed: int, http_workers: str, *, keep_alive: bool) -> Stop:
    """Send SIGTERM to a service while clients of all protocols send requests."""
    served = Served("--http-workers", http_workers, "--grpc-port", "0")
    accounts, load = served.watch_requests(), Load(served.address, served.grpc_address, keep_alive=keep_alive)

    async def terminate() -> None:
        served.process.send_signal(signal.SIGTERM)

    try:
        await load.stop_amid(terminate, Random(seed))
        code = await asyncio.to_thread(served.process.wait, START_SECONDS)
    finally:
        served.stop()
    return Stop(code, load.responses(), [*load.bad_outcomes(), *load.bad_accounts(accounts)])


@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "one connection per request"])
@pytest.mark.parametrize("stops", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_stop_under_load_loses_no_request(stops: int, http_workers: str, *, keep_alive: bool) -> None:
    """At every stop, each accepted request gets a response, and the exit code is 0."""
    ends = [uvloop.run(stop_under_load(seed, http_workers, keep_alive=keep_alive)) for seed in range(stops)]

    assert [(0, [])] * stops == [(end.code, end.bad) for end in ends]
    assert min(count for end in ends for count in end.responses.values()) > CLIENTS
