"""SIGTERM under full load: every accepted request gets a response.

A request is accepted when the client has written all of it to a connection that `connect` had
returned, unless an earlier response on the connection had `Connection: close`. Each accepted
request must get a complete response: `200`, or the problem document of a `503`. A request on a
connection that is closed or reset instead is lost. If `connect` fails, the client can use another
instance.
"""

import asyncio
import signal
from collections import Counter
from random import Random

import pytest
import uvloop

from app.settings import DEMO_BUNDLE
from benchmarks.load.clients import Broken, Connection, request
from benchmarks.load.served import START_SECONDS, Served

CLIENTS = 32
DIGIT = request("/classify", (DEMO_BUNDLE / "golden/seven.png").read_bytes())
ALLOWED = {"200", "503 draining", "503 not_ready"}


async def stop_under_load(seed: int, http_workers: str, *, keep_alive: bool) -> tuple[int, int, Counter[str]]:
    """Return the exit code, the number of allowed responses, and all other outcomes by name."""
    served = Served("--http-workers", http_workers)
    outcomes, chance = Counter[str](), Random(seed)
    try:
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(_send_until_refused(served, outcomes, keep_alive=keep_alive))
            async with asyncio.timeout(START_SECONDS):
                while outcomes.total() < chance.randint(2 * CLIENTS, 8 * CLIENTS):  # noqa: ASYNC110 (any moment will do)
                    await asyncio.sleep(chance.uniform(0.01, 0.05))
            served.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(served.process.wait, START_SECONDS)
    finally:
        served.stop()
    bad = Counter({name: count for name, count in outcomes.items() if name not in ALLOWED})
    return code, outcomes.total() - bad.total(), bad


async def _send_until_refused(served: Served, outcomes: Counter[str], *, keep_alive: bool) -> None:
    while True:
        try:
            connection = await Connection.open(served.address)
        except ConnectionError:
            return
        await _send_until_closed(connection, outcomes, keep_alive=keep_alive)
        connection.close()


async def _send_until_closed(connection: Connection, outcomes: Counter[str], *, keep_alive: bool) -> None:
    is_open = True
    while is_open:
        try:
            reply = await connection.ask(DIGIT)
        except Broken:
            outcomes["lost"] += 1
            return
        outcomes[reply.name] += 1
        is_open = keep_alive and not reply.is_last


@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "one connection per request"])
@pytest.mark.parametrize("stops", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_stop_under_load_loses_no_request(stops: int, http_workers: str, *, keep_alive: bool) -> None:
    """At every stop, each accepted request gets a response, and the exit code is 0."""
    ends = [uvloop.run(stop_under_load(seed, http_workers, keep_alive=keep_alive)) for seed in range(stops)]

    assert [(0, Counter())] * stops == [(code, bad) for code, _, bad in ends]
    assert min(answered for _, answered, _ in ends) > CLIENTS
