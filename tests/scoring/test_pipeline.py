"""`app/scoring/pipeline.py`: chunks in order, decoded ahead of the engines, in bounded memory."""

import itertools
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from app.scoring.pipeline import CHUNKS_AHEAD, Pixels, run_chunks
from tests.support.waiting import HANG_SECONDS


def pixels(number: int) -> Pixels:
    return np.full((1, 1, 3), number, np.uint8)


def values(images: Sequence[Pixels]) -> list[int]:
    return [int(image[0, 0, 0]) for image in images]


def results(count: int, batch: int, engines: int = 1, threads: int = 2) -> list[int | str]:
    chunks = run_chunks(range(count), pixels, [values] * engines, batch=batch, threads=threads)
    return [result for chunk in chunks for result in chunk.results]


@pytest.mark.parametrize("engines", [1, 3])
@pytest.mark.parametrize("batch", [1, 7, 100])
def test_each_item_gets_its_own_result_in_order(batch: int, engines: int) -> None:
    """Results are in the order of the items, for any batch size and number of engines."""
    assert results(100, batch, engines) == [*range(100)]


def test_the_order_does_not_depend_on_who_is_first() -> None:
    """The first chunk is yielded first, although the second one was decoded and run before it."""
    second_has_run = threading.Event()

    def decode(number: int) -> Pixels:
        if number == 0:
            assert second_has_run.wait(HANG_SECONDS)
        return pixels(number)

    def run(images: Sequence[Pixels]) -> list[int]:
        found = values(images)
        if found == [1]:
            second_has_run.set()
        return found

    chunks = run_chunks(range(2), decode, [run, run], batch=1, threads=2)

    assert [chunk.results for chunk in chunks] == [[0], [1]]


def test_an_item_without_pixels_leaves_its_place_empty() -> None:
    """Chunks are cut by position, so an item without pixels moves no other item to another batch."""
    batches = list[list[int]]()

    def decode(number: int) -> Pixels | str:
        return "odd" if number % 2 else pixels(number)

    def run(images: Sequence[Pixels]) -> list[int]:
        batches.append(values(images))
        return batches[-1]

    chunks = [*run_chunks(range(6), decode, [run], batch=4, threads=1)]

    assert batches == [[0, 2], [4]]
    assert [chunk.results for chunk in chunks] == [[0, "odd", 2, "odd"], [4, "odd"]]


def test_a_chunk_without_pixels_is_not_run() -> None:
    """A chunk in which no item has pixels needs no engine."""

    def run(_: Sequence[Pixels]) -> list[int]:
        pytest.fail("it was run")

    chunks = run_chunks(range(3), str, [run], batch=3, threads=1)

    assert [chunk.results for chunk in chunks] == [["0", "1", "2"]]


def test_engines_run_side_by_side() -> None:
    """Two engines run two chunks at the same time."""
    both = threading.Barrier(2)

    def run(images: Sequence[Pixels]) -> list[int]:
        both.wait(HANG_SECONDS)
        return values(images)

    chunks = run_chunks(range(4), pixels, [run, run], batch=2, threads=1)

    assert [chunk.results for chunk in chunks] == [[0, 1], [2, 3]]


@pytest.mark.parametrize("engines", [1, 3])
def test_the_number_of_items_in_memory_is_bounded(engines: int) -> None:
    """While a caller has the first chunk, items are taken for the engines and the chunks ahead, and no further."""
    taken = list[int]()

    def items() -> Iterator[int]:
        for number in itertools.count():
            taken.append(number)
            yield number

    chunks = run_chunks(items(), pixels, [values] * engines, batch=4, threads=2)
    next(chunks)
    chunks.close()

    assert len(taken) == 4 * (engines + CHUNKS_AHEAD)


def test_an_error_of_a_run_ends_the_work() -> None:
    """The error of an engine arrives at the caller, and no thread is left."""

    def run(_: Sequence[Pixels]) -> list[int]:
        raise RuntimeError("no device")

    with pytest.raises(RuntimeError, match="no device"):
        list(run_chunks(range(100), pixels, [run], batch=4, threads=2))

    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("engine", "decode"))]


def test_a_caller_that_stops_leaves_no_thread() -> None:
    """Closing the iterator ends the threads, also with chunks ahead."""
    chunks = run_chunks(itertools.count(), pixels, [values], batch=4, threads=2)
    next(chunks)
    chunks.close()

    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("engine", "decode"))]
