"""`app/engine.py`: the device is what it says, and padding changes nothing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from app.bundle import Bundle
from app.engine import Engine, open_engine
from app.errors import DeviceError


@pytest.fixture(scope="module")
def engine(demo: Bundle) -> Engine:
    """The demonstration network on the CPU."""
    return open_engine(demo.model, "cpu", threads=1, buckets=[1, 4, 8])


@pytest.fixture
def a_build_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime lists CUDA, as its GPU build does on a machine without a GPU."""
    listed = [*onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)


def random_pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("size", range(1, 9))
def test_padding_changes_nothing(engine: Engine, size: int) -> None:
    """A batch padded up to its bucket gives each row the logits it gets alone."""
    pixels = random_pixels(size)
    alone = np.concatenate([engine.run(row[None]) for row in pixels])

    assert np.allclose(alone, engine.run(pixels), atol=1e-5)


def test_a_batch_goes_to_the_nearest_bucket(engine: Engine) -> None:
    """Buckets are filled from below."""
    assert [engine.bucket(size) for size in range(1, 9)] == [1, 4, 4, 4, 8, 8, 8, 8]


def test_warm_up_measures_every_bucket(demo: Bundle) -> None:
    """Each bucket has its time once the engine is warm."""
    engine = open_engine(demo.model, "cpu", threads=1, buckets=[2, 1])
    engine.warm_up()

    assert list(engine.bucket_seconds) == [1, 2]
    assert all(seconds > 0 for seconds in engine.bucket_seconds.values())


def test_the_truth_is_the_session_s(engine: Engine) -> None:
    """Provider and nodes are read from the session, and every node is on that provider."""
    assert engine.truth.provider == "CPUExecutionProvider"
    assert {"CPUExecutionProvider"} == engine.truth.nodes.keys()
    assert engine.truth.nodes["CPUExecutionProvider"] > 100


def test_cuda_without_cuda_is_an_error(demo: Bundle) -> None:
    """A build without CUDA says so; there is no session on the CPU instead."""
    with pytest.raises(DeviceError, match="built without CUDAExecutionProvider"):
        open_engine(demo.model, "cuda", threads=1, buckets=[1])


@pytest.mark.usefixtures("a_build_with_cuda")
def test_a_provider_that_does_not_load_is_an_error(demo: Bundle) -> None:
    """ONNX Runtime only warns when a listed provider cannot be had; here that is the end."""
    with pytest.raises(DeviceError, match="cannot open the model with CUDAExecutionProvider"):
        open_engine(demo.model, "cuda", threads=1, buckets=[1])


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
        open_engine(demo.model, "cuda", threads=1, buckets=[1])


def test_auto_says_why(demo: Bundle) -> None:
    """`auto` without CUDA serves on the CPU and gives the reason."""
    truth = open_engine(demo.model, "auto", threads=1, buckets=[1]).truth

    assert (truth.device, truth.why.startswith("auto: no CUDA, because")) == ("cpu", True)


def test_no_fallback_at_run_time(engine: Engine) -> None:
    """The session does not replace itself by one on another provider when a run fails."""
    assert not engine._session._enable_fallback  # noqa: SLF001 (ONNX Runtime has no public way to ask)


def test_nothing_is_reported_to_anybody(demo: Bundle, tmp_path: Path) -> None:
    """ONNX Runtime's telemetry, on in its official builds, is off: it leaves no device id and no outbox behind."""
    opens = f"from app.engine import *; open_engine(Path({str(demo.model)!r}), 'cpu', 1, [1])"
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

    with pytest.raises(DeviceError, match=r"golden sample 1 differs by 0\.01"):
        engine.self_test(pixels, expected, tolerance=1e-4)


def test_a_file_that_is_no_model_is_an_error(demo: Bundle) -> None:
    """What ONNX Runtime cannot open is told in one line."""
    with pytest.raises(DeviceError, match="cannot open the model") as error:
        open_engine(demo.folder / "labels.json", "cpu", threads=1, buckets=[1])

    assert "\n" not in str(error.value)
