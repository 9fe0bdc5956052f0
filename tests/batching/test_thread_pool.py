"""Tests of `app/batching/thread_pool.py`: results, errors, cancellation and the release of references."""

import asyncio
import threading
import weakref
from functools import partial

import numpy as np
import pytest

from app.batching.thread_pool import ThreadPool
from tests.support.engines import Gate
from tests.support.waiting import HANG_SECONDS

pytestmark = pytest.mark.anyio

BATCH = [np.zeros(1)]


async def test_a_call_returns_its_result() -> None:
    """Calls run in a thread that has the name of the pool, first in, first out."""
    pool = ThreadPool("engine-7")
    first, second = pool.run(lambda: threading.current_thread().name), pool.run(lambda: 2)

    assert (await first, await second) == ("engine-7_0", 2)
    pool.close()


async def test_a_call_raises_its_error() -> None:
    """An error in a call is raised where its result is awaited, and the next call still runs."""
    pool = ThreadPool("engine")
    failing, next_one = pool.run(lambda: 1 / 0), pool.run(lambda: 2)

    with pytest.raises(ZeroDivisionError):
        await failing
    assert await next_one == 2
    pool.close()


async def test_the_result_of_a_cancelled_call_is_dropped() -> None:
    """If a call is cancelled while it runs, its result is dropped without a log line, and the thread goes on."""
    pool, gate, complaints = ThreadPool("engine"), Gate(), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    cancelled = pool.run(lambda: gate(BATCH))
    await asyncio.to_thread(gate.wait_until_entered)
    cancelled.cancel()
    gate.open()

    assert await pool.run(lambda: 2) == 2
    assert complaints == []
    pool.close()


async def test_an_idle_thread_keeps_no_reference() -> None:
    """The arguments of a call are freed when it has returned, not when the next call starts."""

    class Pixels:
        pass

    pool, pixels = ThreadPool("engine"), Pixels()
    kept = weakref.ref(pixels)
    await pool.run(partial(id, pixels))
    del pixels
    async with asyncio.timeout(HANG_SECONDS):  # the result may arrive before the thread drops its reference
        while kept() is not None:  # noqa: ASYNC110 (there is no event for the end of an object)
            await asyncio.sleep(0)

    assert kept() is None
    pool.close()


async def test_a_call_that_is_cancelled_in_the_queue_never_starts() -> None:
    """A call that is cancelled while it waits for a thread is skipped."""
    pool, gate, started = ThreadPool("decode"), Gate(), list[str]()
    first, second = pool.run(lambda: gate(BATCH)), pool.run(lambda: started.append("second"))
    await asyncio.to_thread(gate.wait_until_entered)
    second.cancel()
    gate.open()
    await asyncio.wait([first])
    await pool.run(lambda: started.append("third"))

    assert started == ["third"]
    pool.close()


async def test_threads_run_calls_in_parallel() -> None:
    """As many calls run at once as there are threads; the next one waits."""
    pool, gate = ThreadPool("decode", 2), Gate()
    held = [pool.run(lambda: gate(BATCH)) for _ in range(3)]
    for _ in range(2):
        await asyncio.to_thread(gate.wait_until_entered)

    assert len(gate.batches) == 2
    gate.open(times=3)
    await asyncio.wait(held)
    pool.close()


async def test_a_closed_pool_ends_its_threads() -> None:
    """After the calls that were queued before `close`, the thread exits."""
    pool = ThreadPool("engine-that-ends")
    last = pool.run(threading.current_thread)
    pool.close()
    thread = await last
    await asyncio.to_thread(thread.join, HANG_SECONDS)

    assert not thread.is_alive()


def test_a_closed_event_loop_is_no_error() -> None:
    """If the event loop has closed before a call returns, the result is dropped and the thread exits."""
    gate, threads = Gate(), list[threading.Thread]()

    def held() -> None:
        threads.append(threading.current_thread())
        gate(BATCH)

    async def start_and_leave() -> None:
        pool = ThreadPool("engine")
        pool.run(held)
        pool.close()
        await asyncio.to_thread(gate.wait_until_entered)

    asyncio.run(start_and_leave())
    gate.open()
    threads[0].join(HANG_SECONDS)

    assert not threads[0].is_alive()
