"""`app/engine.py`: the device is what it says, and padding changes nothing."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from app.bundle import Bundle
from app.device import Device
from app.engine import Engine, Pixels, open_engine
from app.errors import BundleError, DeviceError
from app.golden import open_proved, open_unproved
from app.nvidia import Gpu
from tests.fakes import FailingSession, engine_of


@pytest.fixture(scope="module")
def engine(demo: Bundle) -> Engine:
    """The demonstration network on the CPU."""
    return engine_of(demo, buckets=[1, 4, 8])


@pytest.fixture
def a_build_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime lists CUDA, and what it needs seems to be there."""
    listed = [*onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    for check in ("check_gpu", "check_libraries"):
        monkeypatch.setattr(f"app.nvidia.{check}", lambda *_: None)
    monkeypatch.setattr("app.nvidia.about", lambda index: Gpu(f"GPU {index}", None, "13.0", None, None))


def random_pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def padding(engine: Engine) -> Engine:
    """The same session, treated as one of a GPU is: no shape but those it is warm for."""
    return Engine(engine._session, replace(engine.truth, device=Device("cuda")), engine.buckets)  # noqa: SLF001 (the same)


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
    assert engine.truth.provider == "CPUExecutionProvider"
    assert {"CPUExecutionProvider"} == engine.truth.nodes.keys()
    assert engine.truth.nodes["CPUExecutionProvider"] > 100


def test_cuda_without_cuda_is_an_error(demo: Bundle) -> None:
    """A build without CUDA says so; there is no session on the CPU instead."""
    with pytest.raises(DeviceError, match="built without CUDAExecutionProvider"):
        engine_of(demo, Device("cuda", 1))


@pytest.mark.usefixtures("a_build_with_cuda")
def test_a_provider_that_does_not_load_is_an_error(demo: Bundle) -> None:
    """ONNX Runtime only warns when a listed provider cannot be had; here that is the end."""
    with pytest.raises(DeviceError, match="cannot open the model with CUDAExecutionProvider"):
        engine_of(demo, Device("cuda", 1))


@pytest.mark.usefixtures("a_build_with_cuda")
def test_a_missing_library_is_told_instead_of_what_came_of_it(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's own words do not name it, and it has to have tried before the library may be loaded."""
    tried = a_session(monkeypatch, CPU, {CPU: 130})

    def check(*_: Any) -> None:
        raise DeviceError(f"libcudnn.so.9 is missing, after {len(tried)} steps")

    monkeypatch.setattr("app.nvidia.check_libraries", check)
    with pytest.raises(DeviceError, match=r"libcudnn\.so\.9 is missing, after 2 steps"):
        engine_of(demo, Device("cuda", 1))


@pytest.mark.usefixtures("a_build_with_cuda")
def test_a_gpu_that_is_not_there_is_told_before_a_session_is_tried(
    demo: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is asked for that very GPU, and for the CUDA that ONNX Runtime was built for."""
    tried = a_session(monkeypatch, CUDA, {CUDA: 130})
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")

    def check(index: int, built_for: str) -> None:
        raise DeviceError(f"no GPU {index} for {built_for}")

    monkeypatch.setattr("app.nvidia.check_gpu", check)
    with pytest.raises(DeviceError, match=r"no GPU 1 for 13\.0"):
        engine_of(demo, Device("cuda", 1))
    assert tried == []


@pytest.mark.usefixtures("a_build_with_cuda")
def test_a_session_that_fell_back_is_an_error(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that was opened for CUDA and reports the CPU is not believed."""
    honest = onnxruntime.InferenceSession

    def falls_back(model: Any, *_: Any, **__: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return honest(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(DeviceError, match="opened for CUDAExecutionProvider but runs on CPUExecutionProvider"):
        engine_of(demo, Device("cuda", 1))


def a_session(monkeypatch: pytest.MonkeyPatch, provider: str, nodes: dict[str, int]) -> list[Any]:
    """Have ONNX Runtime open sessions that claim this; returns the options and providers they were asked for."""
    asked: list[Any] = []

    def parts() -> list[SimpleNamespace]:
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [0] * count) for name, count in nodes.items()
        ]

    def opened(_: Any, options: Any, providers: Any, **others: Any) -> SimpleNamespace:
        asked.append((options, providers, others))
        return SimpleNamespace(
            get_providers=lambda: [provider, "CPUExecutionProvider"],
            get_provider_graph_assignment_info=parts,
            get_inputs=lambda: [SimpleNamespace(name="pixels", type="tensor(uint8)", shape=["batch", 32, 32, 3])],
            get_outputs=lambda: [
                SimpleNamespace(name="logits", type="tensor(float)", shape=["batch", 10]),
                SimpleNamespace(name="tokens", type="tensor(float)", shape=["batch", 16, 96]),
            ],
            disable_fallback=lambda: asked.append("no fallback"),
        )

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    return asked


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.mark.usefixtures("a_build_with_cuda")
def test_cuda_is_asked_for_alone(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """No second provider, no node on the CPU, no fallback at construction or at run time, no TF32, no spinning."""
    asked = a_session(monkeypatch, CUDA, {CUDA: 130})

    engine = engine_of(demo, Device("cuda", 1))

    (options, providers, others), fallback = asked
    assert providers == [(CUDA, {"device_id": "1", "use_tf32": "0", "enable_cuda_graph": "1"})]
    assert engine.truth.gpu == Gpu("GPU 1", None, "13.0", None, None)
    assert (others, fallback) == ({"enable_fallback": 0}, "no fallback")
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.usefixtures("a_build_with_cuda")
@pytest.mark.parametrize("nodes", [{}, {CPU: 130}, {CUDA: 129, CPU: 1}])
def test_every_node_has_to_be_there(demo: Bundle, monkeypatch: pytest.MonkeyPatch, nodes: dict[str, int]) -> None:
    """A session that says CUDA, with nodes elsewhere or nowhere, is not believed."""
    a_session(monkeypatch, CUDA, nodes)

    with pytest.raises(DeviceError, match="would not run on CUDAExecutionProvider alone"):
        engine_of(demo, Device("cuda", 1))


@pytest.mark.parametrize(
    "change",
    [{"input_size": (64, 32)}, {"classes": 11}, {"tokens": (16, 48)}, {"input_size": (32, 32, 3)}],
    ids=["size", "classes", "tokens", "rank"],
)
def test_a_model_of_another_shape_is_refused(demo: Bundle, change: dict[str, Any]) -> None:
    """Input and output of the model are compared with the manifest before anything is run."""
    signature: dict[str, Any] = {"input_size": (32, 32), "classes": 10, "tokens": (16, 96)}

    with pytest.raises(BundleError, match="the manifest asks for"):
        open_engine(demo.model, Device("cpu"), threads=1, buckets=[1], **(signature | change))


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


@pytest.mark.usefixtures("a_build_with_cuda")
def test_graphs_can_be_left_out(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider is told, and the truth tells it."""
    asked = a_session(monkeypatch, CUDA, {CUDA: 130})

    engine = open_unproved(demo, Device("cuda"), 1, [1], graphs=False)

    assert asked[0][1][0][1]["enable_cuda_graph"] == "0"
    assert not engine.truth.graphs


ALLOCATION = "FAIL : bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 3687936"


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
    padded.truth = replace(padded.truth, graphs=True)

    def fail(*_: Any) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(padded, "_outputs", fail)
    with pytest.raises(DeviceError, match=sentence):
        padded._try(random_pixels(size))  # noqa: SLF001 (both go through it)


@pytest.mark.usefixtures("a_build_with_cuda")
def test_a_network_that_does_not_fit_is_told(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any batch, where not even its weights find room."""

    def opened(*_: Any, **__: Any) -> None:
        raise RuntimeError(ALLOCATION)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    with pytest.raises(DeviceError, match="cuda:0 has too little memory left for the network"):
        engine_of(demo, Device("cuda"))


def test_nothing_is_reported_to_anybody(demo: Bundle, tmp_path: Path) -> None:
    """ONNX Runtime's telemetry, on in its official builds, is off: it leaves no device id and no outbox behind."""
    opens = f"from app.engine import *; onnxruntime.InferenceSession({str(demo.model)!r})"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    homes = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}

    subprocess.run([sys.executable, "-c", opens], env=environment | homes, check=True)  # noqa: S603 (our own code)

    assert list(tmp_path.rglob("*")) == []


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

    def keep(self, _: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize("size", [1, 4, 16])
def test_every_size_of_batch_is_proved_on_a_gpu(
    engine: Engine, demo: Bundle, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A graph that was recorded wrongly for one of them is noticed before anybody is answered."""
    session, truth = engine._session, replace(engine.truth, device=Device("cuda"))  # noqa: SLF001 (the same)
    stale = Engine(session, truth, [1, 4, 16], Stale(session, size))  # type: ignore[arg-type]  # (does what it has to)
    monkeypatch.setattr("app.golden.open_unproved", lambda *_, **__: stale)

    with pytest.raises(DeviceError, match=rf"golden sample \d differs by .* on cuda:0 in a batch of {size};"):
        open_proved(demo, Device("cuda"), 1, [1, 4, 16])


def test_a_file_that_is_no_model_is_an_error(demo: Bundle, tmp_path: Path) -> None:
    """What ONNX Runtime cannot open is told in one line."""
    no_model = replace(demo, folder=tmp_path)
    (tmp_path / "model.onnx").write_text("not a model")

    with pytest.raises(DeviceError, match="cannot open the model") as error:
        engine_of(no_model)

    assert "\n" not in str(error.value)
