"""`app/inference/io_binding.py`, on the CPU: where the memory lies is another matter, what comes out of it is not."""

import threading
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from app.bundle.load import Bundle
from app.errors import DeviceError
from app.inference.engine import Engine
from app.inference.io_binding import GRAPH, Binding, Bindings
from app.inference.self_test import open_proved
from app.system.device import CPU
from tests.support.engines import Gate, engine_of, rows

HERE = ("cpu", 0)
BOTH = ["logits", "tokens"]


@pytest.fixture(scope="module")
def session(demo: Bundle) -> Any:
    """The demonstration network's, on the CPU."""
    return engine_of(demo)._session  # noqa: SLF001 (what bindings are made of)


@pytest.fixture
def bindings(session: Any) -> Bindings:
    """Of that session."""
    return Bindings(session, HERE)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes for which memory was taken, of all bindings from now on."""
    shapes = list[tuple[int, ...]]()
    honest = onnxruntime.OrtValue.ortvalue_from_shape_and_type

    def take(shape: tuple[int, ...], *others: Any) -> Any:
        shapes.append(tuple(shape))
        return honest(shape, *others)

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", take)
    return shapes


def images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_what_comes_out_is_what_the_session_gives(session: Any, bindings: Bindings) -> None:
    """Bit by bit, in batches of any size in any order, with tokens and without."""
    random = Random(0)
    for seed in range(30):
        pixels, names = images(random.choice([1, 2, 4, 8]), seed), random.choice([BOTH, BOTH[:1]])

        outputs = bindings.run(names, pixels)

        assert len(outputs) == len(names)
        assert all(map(np.array_equal, outputs, session.run(names, {"pixels": pixels})))


def test_memory_is_taken_once(bindings: Bindings, taken: list[tuple[int, ...]]) -> None:
    """For each size, when it first comes: pixels, logits and tokens."""
    for size in [1, 4, 1, 4, 4, 1]:
        bindings.run(BOTH, images(size))

    assert taken == [(1, 32, 32, 3), (1, 10), (1, 16, 96), (4, 32, 32, 3), (4, 10), (4, 16, 96)]


def test_an_answer_stays_as_it_is(bindings: Bindings) -> None:
    """The next batch of its size is computed in the same memory, and changes nothing that was handed out."""
    (logits,) = bindings.run(BOTH[:1], images(2, seed=1))
    before = logits.copy()
    bindings.run(BOTH[:1], images(2, seed=2))

    assert np.array_equal(before, logits)


def test_engines_share_no_memory(session: Any, bindings: Bindings, taken: list[tuple[int, ...]]) -> None:
    """Two on one session have their own: the second takes as much as the first did."""
    for each in (bindings, Bindings(session, HERE)):
        each.run(BOTH, images(1))

    assert taken[:3] == taken[3:]


def test_sizes_that_are_given_up_give_their_memory_back(bindings: Bindings, taken: list[tuple[int, ...]]) -> None:
    """They take it anew, should they come after all; those that were kept do not."""
    for size in (1, 2):
        bindings.run(BOTH, images(size))
    taken.clear()

    bindings.keep([1])
    for size in (1, 2):
        bindings.run(BOTH, images(size))

    assert [shape[0] for shape in taken] == [2, 2, 2]


def test_a_warm_engine_keeps_the_memory_of_its_buckets(
    demo: Bundle, session: Any, bindings: Bindings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of no size that warm-up tried and gave up."""
    engine = Engine(session, engine_of(demo).device_report, [1, 2, 4], bindings)
    kept = list[Sequence[int]]()
    monkeypatch.setattr(bindings, "keep", kept.append)
    monkeypatch.setattr(engine, "_timed", lambda pixels: 0.05 * len(pixels))
    engine.warm_up(while_cheaper=True)

    assert kept == [engine.buckets] == [(1,)]


def test_one_thread_runs_every_batch(session: Any, bindings: Bindings) -> None:
    """Whoever asks: a graph is of the thread that recorded it; any other would record its own while callers wait."""
    ran_in = set[str]()

    class Watched:
        def __getattr__(self, name: str) -> Any:
            ran_in.add(threading.current_thread().name)
            return getattr(session, name)

    bindings._session = Watched()  # noqa: SLF001 (to see who calls it)
    for _ in range(2):
        asking = threading.Thread(target=bindings.run, args=(BOTH, images(1)))
        asking.start()
        asking.join()
    bindings.run(BOTH, images(2))

    assert len(ran_in) == 1
    assert threading.current_thread().name not in ran_in


def test_each_size_has_its_own_graph(session: Any) -> None:
    """By its number, in the options of its runs."""
    numbers = [Binding(session, HERE, size)._options.get_run_config_entry(GRAPH) for size in (1, 8)]  # noqa: SLF001 (there is nowhere else to see it)

    assert numbers == ["1", "8"]


def test_a_batch_that_cannot_be_run_is_told_to_who_asked(bindings: Bindings) -> None:
    """As ONNX Runtime tells it; the next one is run."""
    with pytest.raises(RuntimeError, match="size"):
        bindings.run(BOTH, images(1)[:, :16])

    assert len(bindings.run(BOTH, images(1))) == 2


def gpu_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("engine-gpu")}


def test_a_closed_engine_has_no_thread(session: Any) -> None:
    """It ends after what it was given, and the memory of all sizes is given back."""
    before, bindings = gpu_threads(), Bindings(session, HERE)
    bindings.run(BOTH, images(1))
    (thread,) = gpu_threads() - before
    bindings.close()
    thread.join(10)

    assert not thread.is_alive()
    assert bindings._by_size == {}  # noqa: SLF001 (what is in use)


def test_closing_waits_for_no_run(session: Any) -> None:
    """One that is stuck would hold the event loop."""
    gate, bindings = Gate(), Bindings(session, HERE)
    bindings._thread.submit(gate, rows([1]))  # noqa: SLF001 (as a run does)
    gate.wait_until_entered()
    bindings.close()

    assert any(thread.is_alive() for thread in gpu_threads())
    gate.open()


@pytest.mark.parametrize("fails", ["golden", "warm-up"])
def test_an_engine_that_is_not_proved_leaves_no_thread(
    demo: Bundle, session: Any, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """A device that does not compute what it should is given up, and its thread ends."""
    before, bindings = gpu_threads(), Bindings(session, HERE)
    engine = Engine(session, engine_of(demo).device_report, [1], bindings)
    monkeypatch.setattr("app.inference.self_test.open_unproved", lambda *_, **__: engine)
    if fails == "golden":
        monkeypatch.setattr(engine, "self_test", fail)
    else:
        monkeypatch.setattr(engine, "warm_up", fail)
    with pytest.raises(DeviceError, match="a broken GPU"):
        open_proved(demo, CPU, 1, [1])
    for thread in gpu_threads() - before:
        thread.join(10)

    assert gpu_threads() <= before


def fail(*_: object, **__: object) -> None:
    raise DeviceError("a broken GPU")
