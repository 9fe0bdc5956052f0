"""Tests of `app/grpc/arrivals.py`: messages that wait for a place."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest

from app.errors import DeadlineExceeded, Overloaded
from app.grpc.arrivals import MAX_SMALL_MESSAGES, Arrivals
from app.settings import Settings

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def no_place_left(body_timeout: float) -> AsyncIterator[Arrivals]:
    """Yield arrivals of which one message has the only place, until the end of the block."""
    arrivals = Arrivals(Settings(max_body_mib=1, max_uploads_mib=1, body_timeout=body_timeout))
    entered, opened = asyncio.Event(), asyncio.Event()

    async def hold() -> bytes:
        entered.set()
        while not opened.is_set():
            with contextlib.suppress(asyncio.CancelledError):  # of its own timeout
                await opened.wait()
        return b""

    holding = asyncio.create_task(arrivals.upload(hold, math.inf))
    await entered.wait()
    try:
        yield arrivals
    finally:
        opened.set()
        await holding


async def fail() -> NoReturn:
    """Fail the test: the message that waits is read."""
    raise AssertionError


async def test_a_message_that_gets_no_place_is_refused_as_overloaded() -> None:
    """A message that waits for others during `body_timeout` is not late itself: the client should send it again."""
    async with no_place_left(body_timeout=0.01) as arrivals:
        with pytest.raises(Overloaded):
            await arrivals.upload(fail, math.inf)


async def test_a_message_that_gets_no_place_before_its_deadline_is_late() -> None:
    """A call that has no time left is not worth another attempt."""
    async with no_place_left(body_timeout=3600) as arrivals:
        with pytest.raises(DeadlineExceeded):
            await arrivals.upload(fail, time.perf_counter() + 0.01)


async def test_messages_that_are_late_do_not_fail_the_next_one() -> None:
    """A message is read although the timeouts of all others have just expired, and these are late, not overloaded."""
    arrivals = Arrivals(Settings())

    async def never() -> None:
        await asyncio.Event().wait()

    async def message() -> bytes:
        return b"message"

    async def come_later() -> bytes:
        await asyncio.sleep(0)  # after the timeouts, and before the tasks that they cancel
        return await arrivals.small(message, math.inf)

    late = [asyncio.create_task(arrivals.small(never, 0)) for _ in range(MAX_SMALL_MESSAGES)]
    read = await asyncio.create_task(come_later())
    errors = await asyncio.gather(*late, return_exceptions=True)

    assert read == b"message"
    assert {type(error) for error in errors} == {DeadlineExceeded}
