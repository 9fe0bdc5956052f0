"""`app/batching/thread_pool.py`: what blocks, off the event loop, and nothing of it is kept."""

import asyncio
import threading
import weakref
from functools import partial

import numpy as np
import pytest

from app.batching.thread_pool import Workers
from tests.support.engines import Gate
from tests.support.waiting import HANG_SECONDS

pytestmark = pytest.mark.anyio

ROW = [np.zeros(1)]


async def test_what_comes_of_it_comes_back() -> None:
    """From a thread of that name, in the order of asking."""
    workers = Workers("engine-7")
    first, second = workers.do(lambda: threading.current_thread().name), workers.do(lambda: 2)

    assert (await first, await second) == ("engine-7_0", 2)
    workers.close()


async def test_a_failure_comes_back_too() -> None:
    """Whatever is raised reaches who waits, and what was asked for after it is still done."""
    workers = Workers("engine")
    failing, next_one = workers.do(lambda: 1 / 0), workers.do(lambda: 2)

    with pytest.raises(ZeroDivisionError):
        await failing
    assert await next_one == 2
    workers.close()


async def test_what_was_given_up_disturbs_nobody() -> None:
    """An answer that comes after the wait was cancelled is dropped, and the thread goes on."""
    workers, gate, complaints = Workers("engine"), Gate(), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    given_up = workers.do(lambda: gate(ROW))
    await asyncio.to_thread(gate.wait_until_entered)
    given_up.cancel()
    gate.open()

    assert await workers.do(lambda: 2) == 2
    assert complaints == []
    workers.close()


async def test_nothing_is_kept_while_there_is_nothing_to_do() -> None:
    """A batch's pixels are free once it was answered, not when the next one comes."""

    class Pixels:
        pass

    workers, pixels = Workers("engine"), Pixels()
    kept = weakref.ref(pixels)
    await workers.do(partial(id, pixels))
    del pixels
    async with asyncio.timeout(HANG_SECONDS):  # the answer may come before the thread has let go
        while kept() is not None:  # noqa: ASYNC110 (nobody says so when something is freed)
            await asyncio.sleep(0)

    assert kept() is None
    workers.close()


async def test_what_was_given_up_before_it_began_never_begins() -> None:
    """Cancelled while it waits for a thread, work is passed over."""
    workers, gate, begun = Workers("decode"), Gate(), list[str]()
    first, second = workers.do(lambda: gate(ROW)), workers.do(lambda: begun.append("second"))
    await asyncio.to_thread(gate.wait_until_entered)
    second.cancel()
    gate.open()
    await asyncio.wait([first])
    await workers.do(lambda: begun.append("third"))

    assert begun == ["third"]
    workers.close()


async def test_threads_work_side_by_side() -> None:
    """As many as there are threads; the next one waits."""
    workers, gate = Workers("decode", 2), Gate()
    held = [workers.do(lambda: gate(ROW)) for _ in range(3)]
    for _ in range(2):
        await asyncio.to_thread(gate.wait_until_entered)

    assert len(gate.batches) == 2
    gate.open(times=3)
    await asyncio.wait(held)
    workers.close()


async def test_it_ends_when_it_is_closed() -> None:
    """After what it was given, the thread is gone."""
    workers = Workers("engine-that-ends")
    last = workers.do(threading.current_thread)
    workers.close()
    thread = await last
    await asyncio.to_thread(thread.join, HANG_SECONDS)

    assert not thread.is_alive()


def test_a_loop_that_has_ended_is_no_error() -> None:
    """An answer for which there is no loop any more is dropped without a word."""
    gate, threads = Gate(), list[threading.Thread]()

    def held() -> None:
        threads.append(threading.current_thread())
        gate(ROW)

    async def leaves() -> None:
        workers = Workers("engine")
        workers.do(held)
        workers.close()
        await asyncio.to_thread(gate.wait_until_entered)

    asyncio.run(leaves())
    gate.open()
    threads[0].join(HANG_SECONDS)

    assert not threads[0].is_alive()
