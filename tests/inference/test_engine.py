"""`app/inference/engine.py`: padding changes nothing, and what cannot be right is an error."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from app.bundle.load import Bundle
from app.errors import DeviceError
from app.inference.cuda import Gpu
from app.inference.engine import Engine, Pixels
from app.inference.self_test import open_proved
from app.system.device import Device
from tests.support.engines import ALLOCATION, GPU, FailingSession, engine_of


@pytest.fixture(scope="module")
def engine(demo: Bundle) -> Engine:
    """The demonstration network on the CPU."""
    return engine_of(demo, buckets=[1, 4, 8])


def random_pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def padding(engine: Engine) -> Engine:
    """The same session, treated as one of a GPU is: no shape but those it is warm for."""
    return Engine(engine._session, replace(engine.device_report, device=Device("cuda")), engine.buckets)  # noqa: SLF001 (the same)


@pytest.mark.parametrize("size", range(1, 9))
def test_padding_changes_nothing(engine: Engine, size: int) -> None:
    """A batch padded up to its bucket, or run as it is, gives each row the logits it gets alone."""
    pixels = random_pixels(size)
    alone = np.concatenate([engine.run(row[None]) for row in pixels])

    assert np.allclose(alone, engine.run(pixels), atol=1e-5)
    assert np.allclose(alone, padding(engine).run(pixels), atol=1e-5)


def test_tokens_go_to_the_rows_that_ask(engine: Engine) -> None:
    """A row that did not ask gets the plain answer, whoever its batch mates are."""
    pixels = random_pixels(3)
    plain = engine.answer(pixels, [False, False, False])
    logits, tokens = engine.run_with_tokens(pixels)

    mixed = engine.answer(pixels, [False, True, False])

    assert [output.tokens for output in plain] == [None] * 3
    assert (mixed[0].tokens, mixed[2].tokens) == (None, None)
    assert mixed[1].tokens is not None
    assert np.array_equal(tokens[1], mixed[1].tokens)
    assert np.array_equal(logits, [output.logits for output in plain])
    assert np.array_equal(logits, [output.logits for output in mixed])


def test_tokens_nobody_asks_for_are_not_fetched(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session is asked for the second output only if a row wants it."""
    asked = list[list[str]]()

    class Watched:
        def run(self, names: list[str], _: Any) -> list[np.ndarray]:
            asked.append(names)
            return [np.zeros((1, 10), np.float32), np.zeros((1, 16, 96), np.float32)][: len(names)]

    monkeypatch.setattr(engine, "_session", Watched())
    engine.answer(random_pixels(1), [False])
    engine.answer(random_pixels(1), [True])

    assert asked == [["logits"], ["logits", "tokens"]]


@pytest.mark.parametrize("failure", ["shape", "nan"])
def test_an_answer_that_cannot_be_right_is_an_error(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    """Logits of another shape, or that are not numbers, reach nobody."""
    monkeypatch.setattr(engine, "_session", FailingSession(engine._session, failure))  # noqa: SLF001 (to break it)

    with pytest.raises(ValueError, match=r"of shape|not finite"):
        engine.run(random_pixels(3))


def test_what_pads_a_batch_may_come_to_anything(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the rows that somebody waits for are looked at."""

    class Padded:
        def run(self, *_: Any) -> list[np.ndarray]:
            return [np.concatenate([np.zeros((3, 10), np.float32), np.full((1, 10), np.nan, np.float32)])]

    padded = padding(engine)
    monkeypatch.setattr(padded, "_session", Padded())

    assert padded.run(random_pixels(3)).shape == (3, 10)


def test_a_batch_is_padded_with_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row of an earlier batch is run again beside a later one: int8 would let it change their answers."""
    given = list[Pixels]()

    class Watched:
        def run(self, _: Any, inputs: dict[str, Pixels]) -> list[np.ndarray]:
            given.append(inputs["pixels"].copy())
            return [np.zeros((len(given[-1]), 10), np.float32)]

    padded, pixels = padding(engine), random_pixels(8)
    monkeypatch.setattr(padded, "_session", Watched())
    padded.run(pixels)
    padded.run(pixels[5:])

    large, small = given
    assert np.array_equal(large, pixels)
    assert np.array_equal(small, [*pixels[5:], np.zeros_like(pixels[0])])


def test_a_batch_goes_to_the_nearest_bucket(engine: Engine) -> None:
    """On a GPU, padding is as little as the buckets allow; on the CPU there is none, as nothing is gained by it."""
    sizes = range(1, 9)

    assert [padding(engine).bucket(size) for size in sizes] == [1, 4, 4, 4, 8, 8, 8, 8]
    assert [engine.bucket(size) for size in sizes] == list(sizes)


def test_what_is_expected_is_for_the_batch_as_it_is_run(demo: Bundle) -> None:
    """On the CPU a part of the bucket's time, elsewhere all of it; and nothing before anything was measured."""
    engine = engine_of(demo, buckets=[1, 4])
    before = engine.expected_seconds(3)
    engine.bucket_seconds = {1: 1.0, 4: 4.0}
    padded = padding(engine)
    padded.bucket_seconds = engine.bucket_seconds

    assert (before, engine.expected_seconds(3), padded.expected_seconds(3)) == (0.0, 3.0, 4.0)


def test_warm_up_measures_every_bucket(demo: Bundle) -> None:
    """Each bucket has its time once the engine is warm."""
    engine = engine_of(demo, buckets=[2, 1])
    engine.warm_up()

    assert list(engine.bucket_seconds) == [1, 2]
    assert all(seconds > 0 for seconds in engine.bucket_seconds.values())


def timed_as(engine: Engine, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> list[int]:
    """Have batches take what they do not; their sizes as they are run."""
    timed = list[int]()

    def run(pixels: Pixels) -> float:
        timed.append(len(pixels))
        return seconds(len(pixels))

    monkeypatch.setattr(engine, "_timed", run)
    return timed


@pytest.mark.parametrize(("seconds", "runs"), [(0.6, 1), (0.3, 2), (0.003, 4), (0.002, 5)])
def test_a_slow_network_is_warm_sooner(
    demo: Bundle, monkeypatch: pytest.MonkeyPatch, seconds: float, runs: int
) -> None:
    """A bucket is run four times, or for a hundredth of a second, but not again once that has taken half a second."""
    engine = engine_of(demo, buckets=[1])
    timed = timed_as(engine, monkeypatch, lambda _: seconds)
    engine.warm_up()

    assert len(timed) == runs


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [
        (lambda size: 0.05 * size, (1,)),
        (lambda size: 0.05 * size + 0.01, (1, 2, 4)),
        (lambda size: 0.001 * max(size, 4), (1, 2, 4)),
        (lambda _: 0.01, (1, 2, 4, 8)),
    ],
    ids=["no gain", "less and less", "a plateau", "all gain"],
)
def test_no_batch_is_larger_than_pays(
    demo: Bundle, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float], kept: tuple[int, ...]
) -> None:
    """Buckets that make an image no cheaper are given up with all after them, and those are not even tried."""
    engine = engine_of(demo, buckets=[1, 2, 4, 8])
    timed = timed_as(engine, monkeypatch, seconds)
    engine.warm_up(while_cheaper=True)

    assert engine.buckets == tuple(engine.bucket_seconds) == kept
    assert max(timed) <= 2 * kept[-1]
    assert engine.image_seconds == seconds(kept[-1]) / kept[-1]


def test_every_bucket_is_kept_unless_asked(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine in the place of another runs the batches that the other did, whatever is measured now."""
    engine = engine_of(demo, buckets=[1, 2, 4])
    timed_as(engine, monkeypatch, lambda size: 0.05 * size)
    engine.warm_up()

    assert engine.buckets == (1, 2, 4)


def test_the_truth_is_the_session_s(engine: Engine) -> None:
    """Provider and nodes are read from the session, and every node is on that provider."""
    assert engine.device_report.provider == "CPUExecutionProvider"
    assert {"CPUExecutionProvider"} == engine.device_report.nodes.keys()
    assert engine.device_report.nodes["CPUExecutionProvider"] > 100


def test_no_fallback_at_run_time(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fails on its device is not repeated on another, as ONNX Runtime's session would."""
    engine, moved = engine_of(demo), list[Any]()
    session = engine._session  # noqa: SLF001 (to break it)

    class Broken:
        def is_webgpu_graph_capture_enabled(self) -> bool:
            return False

        def run(self, *_: Any) -> None:
            raise EPFail("CUDA failure 700: an illegal memory access was encountered")

    monkeypatch.setattr(session, "_sess", Broken())
    monkeypatch.setattr(session, "_fallback_providers", ["CPUExecutionProvider"])
    monkeypatch.setattr(session, "set_providers", moved.append)

    with pytest.raises(EPFail):
        engine.run(random_pixels(1))
    assert moved == []


@pytest.mark.parametrize(
    ("size", "said", "sentence"),
    [
        (3, ALLOCATION, "cuda:0 is out of memory at batches of 4: lower max_batch .*3687936"),
        (1, "CUDA failure 2: out of memory", "cuda:0 is out of memory at batches of 1: others use it too"),
        (8, "CUDA failure 900: not permitted when stream is capturing", "a batch of 8, .* try cuda_graphs off: CUDA"),
    ],
    ids=["a batch", "one image", "a graph"],
)
def test_a_batch_that_cannot_be_run_names_the_cure(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, size: int, said: str, sentence: str
) -> None:
    """At warm-up and at the self-test, by the size of the bucket."""
    padded = padding(engine)
    padded.device_report = replace(padded.device_report, graphs=True)

    def fail(*_: Any) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(padded, "_outputs", fail)
    with pytest.raises(DeviceError, match=sentence):
        padded._try(random_pixels(size))  # noqa: SLF001 (both go through it)


@pytest.mark.parametrize(
    ("gpu", "sentence"),
    [
        (replace(GPU, cudnn=None), r"cannot run a batch of 1: cuDNN is not loaded, .*swin-serve\[gpu\].*unavailable"),
        (GPU, "perhaps not as a CUDA graph"),
    ],
    ids=["without", "with"],
)
def test_a_missing_cudnn_is_told_by_the_first_batch(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, gpu: Gpu, sentence: str
) -> None:
    """A session opens without it, and no other cure would help."""
    padded = padding(engine)
    padded.device_report = replace(padded.device_report, gpu=gpu, graphs=True)

    def fail(*_: Any) -> None:
        raise RuntimeError("cuDNN is unavailable")

    monkeypatch.setattr(padded, "_outputs", fail)
    with pytest.raises(DeviceError, match=sentence):
        padded._try(random_pixels(1))  # noqa: SLF001 (all that start goes through it)


def test_the_self_test_notices_a_difference(engine: Engine) -> None:
    """A golden sample whose logits differ by more than the tolerance is an error that names it."""
    pixels = random_pixels(2)
    expected = engine.run(pixels)
    engine.self_test(pixels, expected, tolerance=1e-4)
    expected[1, 3] += 0.01

    with pytest.raises(DeviceError, match=r"golden sample 1 differs by 0\.01 on cpu in a batch of 1; allowed: 0\.0001"):
        engine.self_test(pixels, expected, tolerance=1e-4)


class Stale:
    """In the place of bindings: batches of one size have the answers of the first of them for ever."""

    def __init__(self, session: Any, size: int) -> None:
        self._session, self._size = session, size
        self._kept: Any = None

    def run(self, names: list[str], pixels: Pixels) -> Any:
        """The session's, or old ones."""
        outputs = self._session.run(names, {"pixels": pixels})
        if len(pixels) != self._size:
            return outputs
        self._kept = self._kept or outputs
        return self._kept

    def close(self) -> None:
        """There is no thread to end."""

    def keep(self, _: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize("size", [1, 4, 16])
def test_every_size_of_batch_is_proved_on_a_gpu(
    engine: Engine, demo: Bundle, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A graph that was recorded wrongly for one of them is noticed before anybody is answered."""
    session, device_report = engine._session, replace(engine.device_report, device=Device("cuda"))  # noqa: SLF001 (the same)
    stale = Engine(session, device_report, [1, 4, 16], Stale(session, size))  # type: ignore[arg-type]  # (does what it has to)
    monkeypatch.setattr("app.inference.self_test.open_unproved", lambda *_, **__: stale)

    with pytest.raises(DeviceError, match=rf"golden sample \d differs by .* on cuda:0 in a batch of {size};"):
        open_proved(demo, Device("cuda"), 1, [1, 4, 16])
