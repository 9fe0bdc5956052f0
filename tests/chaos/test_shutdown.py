"""SIGTERM under full load: nobody who was let in is lost.

A request counts once all of it was handed to the kernel, on a connection that `connect` had returned, unless an
earlier answer on it said `Connection: close`: who sends after that was told not to. Each request that counts must get a
complete answer, `200` or the problem document of a `503`; a connection that is closed or reset instead has lost it. A
caller for whom `connect` fails was not let in, and goes elsewhere.
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

CALLERS = 32
DIGIT = request("/classify", (DEMO_BUNDLE / "golden/seven.png").read_bytes())
ALLOWED = {"200", "503 draining", "503 not_ready"}


async def stop_under_load(seed: int, http_workers: str, *, keep_alive: bool) -> tuple[int, int, Counter[str]]:
    """Exit code, requests answered, and by name what else they came to: `lost` where there was no answer."""
    served = Served("--http-workers", http_workers)
    outcomes, chance = Counter[str](), Random(seed)
    try:
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(_call_until_refused(served, outcomes, keep_alive=keep_alive))
            async with asyncio.timeout(START_SECONDS):
                while outcomes.total() < chance.randint(2 * CALLERS, 8 * CALLERS):  # noqa: ASYNC110 (any moment will do)
                    await asyncio.sleep(chance.uniform(0.01, 0.05))
            served.process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(served.process.wait, START_SECONDS)
    finally:
        served.stop()
    bad = Counter({name: count for name, count in outcomes.items() if name not in ALLOWED})
    return code, outcomes.total() - bad.total(), bad


async def _call_until_refused(served: Served, outcomes: Counter[str], *, keep_alive: bool) -> None:
    while True:
        try:
            connection = await Connection.open(served.address)
        except ConnectionError:
            return
        await _call_until_closed(connection, outcomes, keep_alive=keep_alive)
        connection.close()


async def _call_until_closed(connection: Connection, outcomes: Counter[str], *, keep_alive: bool) -> None:
    is_open = True
    while is_open:
        try:
            reply = await connection.ask(DIGIT)
        except Broken:
            outcomes["lost"] += 1
            return
        outcomes[reply.name] += 1
        is_open = keep_alive and not reply.is_last


@pytest.mark.parametrize("keep_alive", [True, False], ids=["keep-alive", "a connection each"])
@pytest.mark.parametrize("stops", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_stop_under_load_loses_nobody(stops: int, http_workers: str, *, keep_alive: bool) -> None:
    """Every request that was let in is answered, and the process ends with 0; each time."""
    ends = [uvloop.run(stop_under_load(seed, http_workers, keep_alive=keep_alive)) for seed in range(stops)]

    assert [(0, Counter())] * stops == [(code, bad) for code, _, bad in ends]
    assert min(answered for _, answered, _ in ends) > CALLERS
