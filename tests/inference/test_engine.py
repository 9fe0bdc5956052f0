"""`app/inference/engine.py` and `warmup.py`: padding, warm-up and impossible outputs."""

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
from app.inference.self_test import open_verified
from app.system.device import Device
from tests.support.engines import ALLOCATION, GPU, FailingSession, engine_of


@pytest.fixture(scope="module")
def engine(demo: Bundle) -> Engine:
    """Open the demonstration network on the CPU."""
    return engine_of(demo, buckets=[1, 4, 8])


def random_pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def padding(engine: Engine) -> Engine:
    """Return an engine on the same session that pads batches to its buckets, as on a GPU."""
    return Engine(engine._session, replace(engine.device_report, device=Device("cuda")), engine.buckets)  # noqa: SLF001 (the same session)


@pytest.mark.parametrize("size", range(1, 9))
def test_padding_changes_nothing(engine: Engine, size: int) -> None:
    """A batch padded up to its bucket, or run as it is, gives each row the logits it gets alone."""
    pixels = random_pixels(size)
    alone = np.concatenate([engine.run(row[None]) for row in pixels])

    assert np.allclose(alone, engine.run(pixels), atol=1e-5)
    assert np.allclose(alone, padding(engine).run(pixels), atol=1e-5)


def test_tokens_go_to_the_images_that_ask(engine: Engine) -> None:
    """An image gets tokens only if its request asks for them, whatever its batch contains."""
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


def test_tokens_are_fetched_only_on_request(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session returns the second output only if an image of the batch needs it."""
    fetched = list[list[str]]()

    class RecordingSession:
        def run(self, names: list[str], _: Any) -> list[np.ndarray]:
            fetched.append(names)
            return [np.zeros((1, 10), np.float32), np.zeros((1, 16, 96), np.float32)][: len(names)]

    monkeypatch.setattr(engine, "_session", RecordingSession())
    engine.answer(random_pixels(1), [False])
    engine.answer(random_pixels(1), [True])

    assert fetched == [["logits"], ["logits", "tokens"]]


@pytest.mark.parametrize("failure", ["shape", "nan"])
def test_an_impossible_output_is_an_error(engine: Engine, monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    """Logits of another shape, or that are not finite, are not returned."""
    monkeypatch.setattr(engine, "_session", FailingSession(engine._session, failure))  # noqa: SLF001 (the session to break)

    with pytest.raises(ValueError, match=r"of shape|not finite"):
        engine.run(random_pixels(3))


def test_outputs_of_the_padding_are_not_checked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the outputs of images are checked; those of the padding may be NaN."""

    class NanPaddingSession:
        def run(self, *_: Any) -> list[np.ndarray]:
            return [np.concatenate([np.zeros((3, 10), np.float32), np.full((1, 10), np.nan, np.float32)])]

    padded = padding(engine)
    monkeypatch.setattr(padded, "_session", NanPaddingSession())

    assert padded.run(random_pixels(3)).shape == (3, 10)


def test_a_batch_is_padded_with_zeros(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No image of an earlier batch is run again: with int8 it would change the results."""
    given = list[Pixels]()

    class RecordingSession:
        def run(self, _: Any, inputs: dict[str, Pixels]) -> list[np.ndarray]:
            given.append(inputs["pixels"].copy())
            return [np.zeros((len(given[-1]), 10), np.float32)]

    padded, pixels = padding(engine), random_pixels(8)
    monkeypatch.setattr(padded, "_session", RecordingSession())
    padded.run(pixels)
    padded.run(pixels[5:])

    large, small = given
    assert np.array_equal(large, pixels)
    assert np.array_equal(small, [*pixels[5:], np.zeros_like(pixels[0])])


def test_a_batch_goes_to_the_nearest_bucket(engine: Engine) -> None:
    """A GPU pads to the next bucket; the CPU does not pad, because padding takes time there."""
    sizes = range(1, 9)

    assert [padding(engine).bucket(size) for size in sizes] == [1, 4, 4, 4, 8, 8, 8, 8]
    assert [engine.bucket(size) for size in sizes] == list(sizes)


def test_the_expected_time_is_that_of_the_padded_batch(demo: Bundle) -> None:
    """On the CPU it is a part of the bucket's time, on a GPU all of it, and 0 before warm-up."""
    engine = engine_of(demo, buckets=[1, 4])
    before = engine.expected_seconds(3)
    engine.bucket_seconds = {1: 1.0, 4: 4.0}
    padded = padding(engine)
    padded.bucket_seconds = engine.bucket_seconds

    assert (before, engine.expected_seconds(3), padded.expected_seconds(3)) == (0.0, 3.0, 4.0)


def test_warm_up_measures_every_bucket(demo: Bundle) -> None:
    """After warm-up, each bucket has a time."""
    engine = engine_of(demo, buckets=[2, 1])
    engine.warm_up()

    assert list(engine.bucket_seconds) == [1, 2]
    assert all(seconds > 0 for seconds in engine.bucket_seconds.values())


def fake_times(engine: Engine, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float]) -> list[int]:
    """Let batches appear to take `seconds` of their size; return the list of sizes that are run."""
    sizes = list[int]()

    def run_seconds(pixels: Pixels) -> float:
        sizes.append(len(pixels))
        return seconds(len(pixels))

    monkeypatch.setattr(engine, "_run_seconds", run_seconds)
    return sizes


@pytest.mark.parametrize(("seconds", "runs"), [(0.6, 1), (0.3, 2), (0.003, 4), (0.002, 5)])
def test_a_slow_network_is_measured_less_often(
    demo: Bundle, monkeypatch: pytest.MonkeyPatch, seconds: float, runs: int
) -> None:
    """A bucket is run at least four times and for 10 ms, but not again after 0.5 s."""
    engine = engine_of(demo, buckets=[1])
    sizes = fake_times(engine, monkeypatch, lambda _: seconds)
    engine.warm_up()

    assert len(sizes) == runs


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [
        (lambda size: 0.05 * size, (1,)),
        (lambda size: 0.05 * size + 0.01, (1, 2, 4)),
        (lambda size: 0.001 * max(size, 4), (1, 2, 4)),
        (lambda _: 0.01, (1, 2, 4, 8)),
    ],
    ids=["no gain", "decreasing gain", "a plateau", "constant gain"],
)
def test_only_buckets_that_save_time_are_kept(
    demo: Bundle, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float], kept: tuple[int, ...]
) -> None:
    """The first bucket that makes an image no cheaper is dropped, and larger ones are not run."""
    engine = engine_of(demo, buckets=[1, 2, 4, 8])
    sizes = fake_times(engine, monkeypatch, seconds)
    engine.warm_up(while_cheaper=True)

    assert engine.buckets == tuple(engine.bucket_seconds) == kept
    assert max(sizes) <= 2 * kept[-1]
    assert engine.image_seconds == seconds(kept[-1]) / kept[-1]


def test_every_bucket_is_kept_by_default(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replacement keeps the buckets of the failed engine, whatever its warm-up measures."""
    engine = engine_of(demo, buckets=[1, 2, 4])
    fake_times(engine, monkeypatch, lambda size: 0.05 * size)
    engine.warm_up()

    assert engine.buckets == (1, 2, 4)


def test_the_device_report_is_read_from_the_session(engine: Engine) -> None:
    """The session reports the provider, and every node is on this provider."""
    assert engine.device_report.provider == "CPUExecutionProvider"
    assert {"CPUExecutionProvider"} == engine.device_report.nodes.keys()
    assert engine.device_report.nodes["CPUExecutionProvider"] > 100


def test_no_fallback_at_run_time(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed run is not repeated on another device, as ONNX Runtime's session would do."""
    engine, moved = engine_of(demo), list[Any]()
    session = engine._session  # noqa: SLF001 (the session to break)

    class BrokenSession:
        def is_webgpu_graph_capture_enabled(self) -> bool:
            return False

        def run(self, *_: Any) -> None:
            raise EPFail("CUDA failure 700: an illegal memory access was encountered")

    monkeypatch.setattr(session, "_sess", BrokenSession())
    monkeypatch.setattr(session, "_fallback_providers", ["CPUExecutionProvider"])
    monkeypatch.setattr(session, "set_providers", moved.append)

    with pytest.raises(EPFail):
        engine.run(random_pixels(1))
    assert moved == []


@pytest.mark.parametrize(
    ("size", "raised", "message"),
    [
        (3, ALLOCATION, "cuda:0 is out of memory at batches of 4: lower max_batch .*3687936"),
        (1, "CUDA failure 2: out of memory", "cuda:0 is out of memory at batches of 1: stop other programs"),
        (8, "CUDA failure 900: not permitted when stream is capturing", "a batch of 8, .* try cuda_graphs off: CUDA"),
    ],
    ids=["a batch", "one image", "a graph"],
)
def test_a_batch_that_cannot_be_run_names_the_cure(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, size: int, raised: str, message: str
) -> None:
    """At warm-up and at the self-test, the error names the size of the bucket and what to do."""
    padded = padding(engine)
    padded.device_report = replace(padded.device_report, graphs=True)

    def fail(*_: Any) -> None:
        raise RuntimeError(raised)

    monkeypatch.setattr(padded, "_outputs", fail)
    with pytest.raises(DeviceError, match=message):
        padded._run_at_start(random_pixels(size))  # noqa: SLF001 (warm-up and self-test call it)


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        (replace(GPU, cudnn=None), r"cannot run a batch of 1: cuDNN is not loaded, .*swin-serve\[gpu\].*unavailable"),
        (GPU, "perhaps not as a CUDA graph"),
    ],
    ids=["without", "with"],
)
def test_the_first_batch_finds_a_missing_cudnn(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, gpu: Gpu, message: str
) -> None:
    """A session opens without cuDNN; the first batch fails, and the error names cuDNN."""
    padded = padding(engine)
    padded.device_report = replace(padded.device_report, gpu=gpu, graphs=True)

    def fail(*_: Any) -> None:
        raise RuntimeError("cuDNN is unavailable")

    monkeypatch.setattr(padded, "_outputs", fail)
    with pytest.raises(DeviceError, match=message):
        padded._run_at_start(random_pixels(1))  # noqa: SLF001 (warm-up and self-test call it)


def test_the_self_test_finds_a_difference(engine: Engine) -> None:
    """Logits that differ by more than the tolerance are an error that names the golden sample."""
    pixels = random_pixels(2)
    expected = engine.run(pixels)
    engine.self_test(pixels, expected, tolerance=1e-4)
    expected[1, 3] += 0.01

    with pytest.raises(DeviceError, match=r"golden sample 1 differs by 0\.01 on cpu in a batch of 1; allowed: 0\.0001"):
        engine.self_test(pixels, expected, tolerance=1e-4)


class StaleBindings:
    """A stand-in for bindings: batches of one size always return the outputs of the first one."""

    def __init__(self, session: Any, size: int) -> None:
        self._session, self._size = session, size
        self._kept: Any = None

    def run(self, names: list[str], pixels: Pixels) -> Any:
        outputs = self._session.run(names, {"pixels": pixels})
        if len(pixels) != self._size:
            return outputs
        self._kept = self._kept or outputs
        return self._kept

    def close(self) -> None:
        """Do nothing: there is no thread to end."""

    def keep(self, _: Any) -> None:
        """Do nothing."""


@pytest.mark.parametrize("size", [1, 4, 16])
def test_every_batch_size_is_verified_on_a_gpu(
    engine: Engine, demo: Bundle, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A CUDA graph that was recorded wrongly for one size is found before the engine serves."""
    session, device_report = engine._session, replace(engine.device_report, device=Device("cuda"))  # noqa: SLF001 (the same session)
    stale = Engine(session, device_report, [1, 4, 16], StaleBindings(session, size))  # type: ignore[arg-type]  # (a stand-in)
    monkeypatch.setattr("app.inference.self_test.open_unverified", lambda *_, **__: stale)

    with pytest.raises(DeviceError, match=rf"golden sample \d differs by .* on cuda:0 in a batch of {size};"):
        open_verified(demo, Device("cuda"), 1, [1, 4, 16])
