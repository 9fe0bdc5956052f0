"""`classify_many` of both clients: order, bounds and errors."""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from swin_client import AsyncClient, Classification, Client, SwinError, UnsupportedImage
from swin_client.blocking import in_order
from swin_client.calls import AHEAD

from tests.support.both_clients import AskMany
from tests.support.fake_server import Handler, Script, fake_server, hang_up, reply, silence
from tests.support.waiting import HANG_SECONDS


def echo(handler: Handler) -> None:
    """Answer with the image as the label. The image `bad` is refused."""
    label = handler.received.content.decode()
    if label == "bad":
        reply(415, {"code": "unsupported_image", "detail": "bad"})(handler)
    else:
        reply(200, {"predictions": [{"index": 0, "label": label, "score": 1}]})(handler)


class Meeting:
    """A script that answers when a number of requests are in progress, and counts them."""

    def __init__(self, size: int) -> None:
        self.most = 0
        self._in_progress, self._size = 0, size
        self._lock, self._met = threading.Lock(), threading.Event()

    def __call__(self, handler: Handler) -> None:
        with self._lock:
            self._in_progress += 1
            self.most = max(self.most, self._in_progress)
            if self._in_progress == self._size:
                self._met.set()
        assert self._met.wait(HANG_SECONDS)
        with self._lock:
            self._in_progress -= 1  # before the answer, which lets the client send the next request
        echo(handler)


def labels(outcomes: list[Classification | SwinError]) -> list[str]:
    return [each.best.label if isinstance(each, Classification) else type(each).__name__ for each in outcomes]


def images(number: int) -> list[bytes]:
    return [str(index).encode() for index in range(number)]


def test_results_are_in_the_order_of_the_images(ask_many: AskMany) -> None:
    """The first answer arrives after all others that may run with it."""
    others = threading.Semaphore(0)

    def first_waits(handler: Handler) -> None:
        if handler.received.content == b"0":
            for _ in range(AHEAD * 4 - 1):
                assert others.acquire(timeout=HANG_SECONDS)
        else:
            others.release()
        echo(handler)

    with fake_server(first_waits) as server:
        assert labels(ask_many(server.url, images(50), concurrency=4)) == [str(index) for index in range(50)]


@pytest.mark.parametrize("concurrency", [1, 5])
def test_concurrency_is_bounded(ask_many: AskMany, concurrency: int) -> None:
    """As many requests are in progress as the caller allows, and never more."""
    meeting = Meeting(concurrency)
    with fake_server(meeting) as server:
        ask_many(server.url, images(40), concurrency=concurrency)

    assert meeting.most == concurrency


def test_an_endless_iterable_is_read_a_little_ahead() -> None:
    """The number of images in memory does not depend on the number of images."""
    read = list[int]()

    def endless() -> Iterator[bytes]:
        for number in itertools.count():
            read.append(number)
            yield str(number).encode()

    with fake_server(echo) as server, Client(server.url) as client:
        results = client.classify_many(endless(), concurrency=3)
        for expected in range(20):
            assert next(results).best.label == str(expected)
            assert len(read) <= expected + AHEAD * 3
        results.close()


@pytest.mark.anyio
async def test_an_endless_asynchronous_iterable_is_read_a_little_ahead() -> None:
    """As with `Client`."""
    read = list[int]()

    async def endless() -> AsyncIterator[bytes]:
        for number in itertools.count():
            await asyncio.sleep(0)
            read.append(number)
            yield str(number).encode()

    with fake_server(echo) as server:
        async with AsyncClient(server.url) as client, contextlib.aclosing(client.classify_many(endless())) as results:
            for expected in range(50):
                assert (await anext(results)).best.label == str(expected)
                assert len(read) <= expected + AHEAD * 8


def test_a_result_does_not_wait_for_the_images_that_may_be_read_ahead() -> None:
    """The first result is delivered when it is there, although one more image could be read."""
    read, gate, fourth_runs = list[int](), threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        for number in range(6):
            if number == 4:
                assert fourth_runs.wait(HANG_SECONDS)  # its thread had the first one before
            read.append(number)
            yield number

    def work(number: int) -> int:
        if number in {1, 2}:
            assert gate.wait(HANG_SECONDS)
        if number == 3:
            fourth_runs.set()
        return number

    results = in_order(work, items(), 3, threading.Event())
    assert next(results) == 0
    assert len(read) < AHEAD * 3
    gate.set()
    assert list(results) == [1, 2, 3, 4, 5]


def test_one_bad_image_does_not_end_the_others(ask_many: AskMany, tmp_path: Path) -> None:
    """With `on_error="return"`, its error takes its place."""
    with fake_server(echo) as server:
        outcomes = ask_many(server.url, [b"0", b"bad", b"2", tmp_path / "missing", b"4"])

    assert labels(outcomes) == ["0", "UnsupportedImage", "2", "UnusableImage", "4"]


def test_the_first_error_ends_the_iteration() -> None:
    """With `on_error="raise"`, the default, the results before it are delivered."""
    with fake_server(echo) as server, Client(server.url) as client:
        results = client.classify_many([b"0", b"1", b"bad", *images(20)], concurrency=2)
        assert [next(results).best.label, next(results).best.label] == ["0", "1"]
        with pytest.raises(UnsupportedImage):
            next(results)
        assert not list(results)


@pytest.mark.anyio
async def test_the_first_error_ends_the_asynchronous_iteration() -> None:
    """As with `Client`."""
    with fake_server(echo) as server:
        async with AsyncClient(server.url) as client:
            results = client.classify_many([b"0", b"1", b"bad", *images(20)], concurrency=2)
            assert [(await anext(results)).best.label, (await anext(results)).best.label] == ["0", "1"]
            with pytest.raises(UnsupportedImage):
                await anext(results)
            assert not [each async for each in results]


def test_an_error_of_the_iterable_is_raised(ask_many: AskMany) -> None:
    """Its type is kept, because no image caused it."""

    def broken() -> Iterator[bytes]:
        yield b"0"
        raise LookupError("no more images")

    with fake_server(echo) as server, pytest.raises(LookupError, match="no more images"):
        ask_many(server.url, broken())


def test_no_images_are_no_results(ask_many: AskMany) -> None:
    """The service is not asked."""
    assert ask_many("http://127.0.0.1:9", []) == []


def only_the_first(otherwise: Script) -> Script:
    """Answer the image `0`, and run the other script for all others."""
    return lambda handler: (echo if handler.received.content == b"0" else otherwise)(handler)


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("swin_client")]


def test_a_loop_that_is_left_sends_no_more_requests() -> None:
    """Requests that would be repeated are not. All threads have ended when the iterator is closed."""
    with fake_server(only_the_first(hang_up)) as server, Client(server.url, timeout=HANG_SECONDS) as client:
        results = client.classify_many(images(1000), concurrency=4)
        assert next(results).best.label == "0"
        results.close()
        assert not workers()
        assert len(server.requests) < 100


@pytest.mark.anyio
async def test_a_loop_that_is_left_cancels_its_requests() -> None:
    """`aclosing` ends them at once, although the server does not answer."""
    before = asyncio.all_tasks()
    with fake_server(only_the_first(silence)) as server:
        async with AsyncClient(server.url, timeout=HANG_SECONDS) as client:
            async with contextlib.aclosing(client.classify_many(images(9), concurrency=3)) as results:
                async for each in results:
                    assert each.best.label == "0"
                    break
            assert asyncio.all_tasks() == before


@pytest.mark.anyio
async def test_the_images_can_be_an_asynchronous_iterable() -> None:
    """They can come from another connection, for example."""

    async def arriving() -> AsyncIterator[bytes]:
        for image in images(10):
            await asyncio.sleep(0)
            yield image

    with fake_server(echo) as server:
        async with AsyncClient(server.url) as client:
            assert [each.best.label async for each in client.classify_many(arriving())] == [str(n) for n in range(10)]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"timeout": 0}, {"on_error": "ignore"}])
def test_a_value_that_cannot_be_used_is_refused_at_the_call(kind: type[Any], wrong: dict[str, Any]) -> None:
    """Not at the first result, which can be elsewhere in the program."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind("http://swin").classify_many([], **wrong)
