"""`app/inference/io_binding.py` on the CPU: outputs, memory, threads and graph numbers."""

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
from app.inference.self_test import open_verified
from app.system.device import CPU
from tests.support.engines import Gate, engine_of, rows

CPU_MEMORY = ("cpu", 0)
BOTH = ["logits", "tokens"]


@pytest.fixture(scope="module")
def session(demo: Bundle) -> Any:
    """Open a session of the demonstration network on the CPU."""
    return engine_of(demo)._session  # noqa: SLF001 (bindings need the session itself)


@pytest.fixture
def bindings(session: Any) -> Bindings:
    """Make bindings of this session."""
    return Bindings(session, CPU_MEMORY)


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Record the shapes that all bindings allocate memory for from now on."""
    shapes = list[tuple[int, ...]]()
    original = onnxruntime.OrtValue.ortvalue_from_shape_and_type

    def allocate(shape: tuple[int, ...], *others: Any) -> Any:
        shapes.append(tuple(shape))
        return original(shape, *others)

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_shape_and_type", allocate)
    return shapes


def images(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_outputs_are_those_of_the_session(session: Any, bindings: Bindings) -> None:
    """Outputs are equal bit by bit, for any batch size in any order, with tokens and without."""
    random = Random(0)
    for seed in range(30):
        pixels, names = images(random.choice([1, 2, 4, 8]), seed), random.choice([BOTH, BOTH[:1]])

        outputs = bindings.run(names, pixels)

        assert len(outputs) == len(names)
        assert all(map(np.array_equal, outputs, session.run(names, {"pixels": pixels})))


def test_memory_is_allocated_once(bindings: Bindings, allocated: list[tuple[int, ...]]) -> None:
    """The first batch of a size allocates pixels, logits and tokens; later batches reuse them."""
    for size in [1, 4, 1, 4, 4, 1]:
        bindings.run(BOTH, images(size))

    assert allocated == [(1, 32, 32, 3), (1, 10), (1, 16, 96), (4, 32, 32, 3), (4, 10), (4, 16, 96)]


def test_returned_outputs_do_not_change(bindings: Bindings) -> None:
    """The next batch uses the same memory, and outputs that were returned stay as they are."""
    (logits,) = bindings.run(BOTH[:1], images(2, seed=1))
    before = logits.copy()
    bindings.run(BOTH[:1], images(2, seed=2))

    assert np.array_equal(before, logits)


def test_engines_share_no_memory(session: Any, bindings: Bindings, allocated: list[tuple[int, ...]]) -> None:
    """Bindings of a second engine on the session allocate as much memory as the first."""
    for each in (bindings, Bindings(session, CPU_MEMORY)):
        each.run(BOTH, images(1))

    assert allocated[:3] == allocated[3:]


def test_memory_of_other_sizes_is_freed(bindings: Bindings, allocated: list[tuple[int, ...]]) -> None:
    """A size that was not kept allocates its memory again; a size that was kept does not."""
    for size in (1, 2):
        bindings.run(BOTH, images(size))
    allocated.clear()

    bindings.keep([1])
    for size in (1, 2):
        bindings.run(BOTH, images(size))

    assert [shape[0] for shape in allocated] == [2, 2, 2]


def test_a_warm_engine_keeps_the_memory_of_its_buckets(
    demo: Bundle, session: Any, bindings: Bindings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of a size that warm-up dropped is freed."""
    engine = Engine(session, engine_of(demo).device_report, [1, 2, 4], bindings)
    kept = list[Sequence[int]]()
    monkeypatch.setattr(bindings, "keep", kept.append)
    monkeypatch.setattr(engine, "_run_seconds", lambda pixels: 0.05 * len(pixels))
    engine.warm_up(while_cheaper=True)

    assert kept == [engine.buckets] == [(1,)]


def test_one_thread_runs_every_batch(session: Any, bindings: Bindings) -> None:
    """A CUDA graph belongs to the thread that recorded it; another thread would record its own."""
    threads = set[str]()

    class RecordingSession:
        def __getattr__(self, name: str) -> Any:
            threads.add(threading.current_thread().name)
            return getattr(session, name)

    bindings._session = RecordingSession()  # noqa: SLF001 (records the calling threads)
    for _ in range(2):
        caller = threading.Thread(target=bindings.run, args=(BOTH, images(1)))
        caller.start()
        caller.join()
    bindings.run(BOTH, images(2))

    assert len(threads) == 1
    assert threading.current_thread().name not in threads


def test_each_size_has_its_own_graph(session: Any) -> None:
    """The number of the graph, in the options of the run, is the batch size."""
    numbers = [Binding(session, CPU_MEMORY, size)._options.get_run_config_entry(GRAPH) for size in (1, 8)]  # noqa: SLF001 (nothing else shows it)

    assert numbers == ["1", "8"]


def test_the_caller_gets_the_error_of_a_failed_batch(bindings: Bindings) -> None:
    """The error of ONNX Runtime is raised in the calling thread, and the next batch is run."""
    with pytest.raises(RuntimeError, match="size"):
        bindings.run(BOTH, images(1)[:, :16])

    assert len(bindings.run(BOTH, images(1))) == 2


def gpu_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("engine-gpu")}


def test_a_closed_engine_has_no_thread(session: Any) -> None:
    """After `close`, the thread ends and the memory of all sizes is freed."""
    before, bindings = gpu_threads(), Bindings(session, CPU_MEMORY)
    bindings.run(BOTH, images(1))
    (thread,) = gpu_threads() - before
    bindings.close()
    thread.join(10)

    assert not thread.is_alive()
    assert bindings._by_size == {}  # noqa: SLF001 (the memory in use)


def test_close_does_not_wait_for_a_run(session: Any) -> None:
    """A run that never ends must not block the event loop."""
    gate, bindings = Gate(), Bindings(session, CPU_MEMORY)
    bindings._thread.submit(gate, rows([1]))  # noqa: SLF001 (runs are submitted there)
    gate.wait_until_entered()
    bindings.close()

    assert any(thread.is_alive() for thread in gpu_threads())
    gate.open()


@pytest.mark.parametrize("fails", ["golden", "warm-up"])
def test_an_engine_that_fails_verification_leaves_no_thread(
    demo: Bundle, session: Any, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """If the self-test or warm-up fails, the engine is closed and its thread ends."""
    before, bindings = gpu_threads(), Bindings(session, CPU_MEMORY)
    engine = Engine(session, engine_of(demo).device_report, [1], bindings)
    monkeypatch.setattr("app.inference.self_test.open_unverified", lambda *_, **__: engine)
    if fails == "golden":
        monkeypatch.setattr(engine, "self_test", fail)
    else:
        monkeypatch.setattr(engine, "warm_up", fail)
    with pytest.raises(DeviceError, match="a broken GPU"):
        open_verified(demo, CPU, 1, [1])
    for thread in gpu_threads() - before:
        thread.join(10)

    assert gpu_threads() <= before


def fail(*_: object, **__: object) -> None:
    raise DeviceError("a broken GPU")
