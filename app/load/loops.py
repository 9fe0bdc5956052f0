"""Closed loops, whose clients wait for their responses, and open loops, whose requests arrive on time.

A closed loop measures rates. An open loop measures latencies: requests arrive whether or not earlier
ones have ended, and latencies count from the arrival. So a stall of the service delays all requests that
arrive during the stall, and is not hidden by clients that wait (coordinated omission). A garbage collection
of this process would look like such a stall, so there is none meanwhile. Knows no HTTP.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random

from app.load.garbage import no_collections


async def open_loop(rate: float, seconds: float, random: Random, call: Callable[[float], Awaitable[None]]) -> None:
    """Start calls as a Poisson process of `rate` per second, whether or not earlier calls have ended.

    `call` is given its arrival time (of `time.perf_counter`). Latencies count from that time. It is never in
    the future: timers of uvloop have a resolution of 1 ms and can end early, and the arrival is then earlier, too.
    """
    with no_collections():
        arrival = time.perf_counter()
        ends = arrival + seconds
        async with asyncio.TaskGroup() as calls:
            while (arrival := arrival + random.expovariate(rate)) < ends:
                await asyncio.sleep(arrival - time.perf_counter())
                calls.create_task(_call(call, min(arrival, time.perf_counter())))


async def _call(call: Callable[[float], Awaitable[None]], arrival: float) -> None:
    await call(arrival)


async def closed_loop(clients: int, seconds: float, call: Callable[[], Awaitable[None]]) -> None:
    """Run concurrent clients. Each starts its next call when the previous one has ended."""

    async def client(ends: float) -> None:
        while time.perf_counter() < ends:
            await call()

    with no_collections():
        ends = time.perf_counter() + seconds
        await asyncio.gather(*(client(ends) for _ in range(clients)))
