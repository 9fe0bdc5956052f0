"""`app/worker.py`: what blocks, off the event loop, and nothing of it is kept."""

import asyncio
import threading
import weakref
from functools import partial

import pytest

from app.worker import Worker
from tests.fakes import Gate

pytestmark = pytest.mark.anyio


async def test_what_comes_of_it_comes_back() -> None:
    """From a thread of that name, in the order of asking."""
    worker = Worker("engine-7")
    first, second = worker.do(lambda: threading.current_thread().name), worker.do(lambda: 2)

    assert (await first, await second) == ("engine-7", 2)
    worker.close()


async def test_a_failure_comes_back_too() -> None:
    """Whatever is raised reaches who waits, and what was asked for after it is still done."""
    worker = Worker("engine")
    failing, next_one = worker.do(lambda: 1 / 0), worker.do(lambda: 2)

    with pytest.raises(ZeroDivisionError):
        await failing
    assert await next_one == 2
    worker.close()


async def test_what_was_given_up_disturbs_nobody() -> None:
    """An answer that comes after the wait was cancelled is dropped, and the thread goes on."""
    worker, gate, complaints = Worker("engine"), Gate(), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    given_up = worker.do(lambda: gate([]))
    await asyncio.to_thread(gate.wait_until_entered)
    given_up.cancel()
    gate.open()

    assert await worker.do(lambda: 2) == 2
    assert complaints == []
    worker.close()


async def test_nothing_is_kept_while_there_is_nothing_to_do() -> None:
    """A batch's pixels are free once it was answered, not when the next one comes."""

    class Pixels:
        pass

    worker, pixels = Worker("engine"), Pixels()
    kept = weakref.ref(pixels)
    await worker.do(partial(id, pixels))
    del pixels
    async with asyncio.timeout(10):  # the answer may come before the thread has let go
        while kept() is not None:  # noqa: ASYNC110 (nobody says so when something is freed)
            await asyncio.sleep(0)

    worker.close()


async def test_it_ends_when_it_is_closed() -> None:
    """After what it was given, the thread is gone."""
    worker = Worker("engine-that-ends")
    last = worker.do(threading.current_thread)
    worker.close()
    thread = await last
    await asyncio.to_thread(thread.join, 10)

    assert not thread.is_alive()


def test_a_loop_that_has_ended_is_no_error() -> None:
    """An answer for which there is no loop any more is dropped without a word."""
    gate, threads = Gate(), list[threading.Thread]()

    def held() -> None:
        threads.append(threading.current_thread())
        gate([])

    async def leaves() -> None:
        worker = Worker("engine")
        worker.do(held)
        worker.close()
        await asyncio.to_thread(gate.wait_until_entered)

    asyncio.run(leaves())
    gate.open()
    threads[0].join(10)

    assert not threads[0].is_alive()
