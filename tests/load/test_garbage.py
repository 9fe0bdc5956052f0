"""Load without garbage collections."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from app.load.garbage import no_collections
from app.load.loops import closed_loop, open_loop


def test_garbage_is_collected_before_and_not_meanwhile() -> None:
    """The block begins with little garbage, and collections go on after it."""
    generations = list[int]()

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            generations.append(info["generation"])

    gc.callbacks.append(note)
    try:
        with no_collections():
            assert generations == [2]
            assert not gc.isenabled()
            with no_collections():
                assert generations == [2]
            assert not gc.isenabled()
    finally:
        gc.callbacks.remove(note)
    assert gc.isenabled()


def test_collections_go_on_after_a_failure() -> None:
    """A window can be cancelled."""
    with pytest.raises(RuntimeError, match="stopped"), no_collections():
        raise RuntimeError("stopped")

    assert gc.isenabled()


@pytest.mark.parametrize(
    "load",
    [
        lambda call: closed_loop(1, 0.01, call),
        lambda call: open_loop(1000, 0.05, Random(0), call),
    ],
)
def test_no_collection_stops_the_clients_of_a_loop(
    load: Callable[[Callable[..., Awaitable[None]]], Awaitable[None]],
) -> None:
    """It would count as a latency of the service."""
    seen = set[bool]()

    async def call(_arrival: float = 0) -> None:
        seen.add(gc.isenabled())
        await asyncio.sleep(0)

    async def work() -> None:
        await load(call)

    asyncio.run(work())

    assert seen == {False}
    assert gc.isenabled()
