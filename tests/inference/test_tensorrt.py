"""`app/inference/tensorrt.py`: options, cache folder, and errors without TensorRT."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from app.bundle.load import Bundle
from app.errors import DeviceError
from app.inference import cuda, tensorrt
from app.system.device import Device
from tests.support.engines import GPU, engine_of


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Let ONNX Runtime list TensorRT, and record the providers of sessions."""
    recorded = list[Any]()

    def opened(*_: Any, **options: Any) -> None:
        recorded.extend(options["providers"])
        raise RuntimeError("so far and no further")

    listed = ["TensorrtExecutionProvider", *onnxruntime.get_available_providers()]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    for name in ("check_gpu", "check_libraries"):
        monkeypatch.setattr(cuda, name, lambda *_: None)
    monkeypatch.setattr(cuda, "describe_gpu", lambda _: GPU)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return recorded


def test_every_batch_up_to_the_largest_is_compiled_for(tmp_path: Path) -> None:
    """Options optimize for the largest batch, and cache results and timings."""
    options = tensorrt.options(pixels="pixels", size=(224, 192), buckets=[4, 1, 64], half=True, cache=tmp_path)

    assert options == {
        "trt_profile_min_shapes": "pixels:1x224x192x3",
        "trt_profile_opt_shapes": "pixels:64x224x192x3",
        "trt_profile_max_shapes": "pixels:64x224x192x3",
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(tmp_path),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(tmp_path),
    }


def test_each_model_gpu_runtime_and_batch_has_its_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder depends on model, GPU, version of ONNX Runtime and largest batch."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other = tmp_path / "one.onnx", tmp_path / "other.onnx"
    one.write_bytes(b"1")
    other.write_bytes(b"2")
    first = tensorrt.cache_folder(one, "NVIDIA H200", "1.31.1", [1, 64])
    others = [
        tensorrt.cache_folder(other, "NVIDIA H200", "1.31.1", [1, 64]),
        tensorrt.cache_folder(one, "NVIDIA L4", "1.31.1", [1, 64]),
        tensorrt.cache_folder(one, "NVIDIA H200", "1.32.0", [1, 64]),
        tensorrt.cache_folder(one, "NVIDIA H200", "1.31.1", [1, 32]),
    ]

    assert first == tensorrt.cache_folder(one, "NVIDIA H200", "1.31.1", [64, 1])
    assert first.is_relative_to(tmp_path / "swin-serve" / "tensorrt")
    assert len({first, *others}) == 5


def test_the_cache_is_in_the_home_folder_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty XDG_CACHE_HOME counts as unset (XDG Base Directory Specification)."""
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model.onnx").touch()

    assert tensorrt.cache_folder(tmp_path / "model.onnx", "L4", "1", [1]).is_relative_to(tmp_path / ".cache/swin-serve")


def test_tensorrt_is_the_only_provider(
    demo: Bundle, providers: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no second provider and no CUDA graph; the log says once that TensorRT compiles."""
    caplog.set_level("INFO", "swin.start")
    for _ in range(2):
        with pytest.raises(DeviceError, match="cannot open the model with TensorrtExecutionProvider: so far"):
            engine_of(demo, Device("tensorrt", 1), [1, 4])
        (tmp_path / next(tmp_path.rglob("*batches-of-4*")) / "compiled.engine").touch()

    assert [name for name, _ in providers] == ["TensorrtExecutionProvider"] * 2
    options = providers[0][1]
    assert (options["device_id"], options["trt_fp16_enable"]) == ("1", "0")
    assert "trt_cuda_graph_enable" not in options
    assert Path(options["trt_engine_cache_path"]).is_dir()
    assert [record.message for record in caplog.records] == ["TensorRT compiles the network, for minutes"]


def test_a_cache_that_cannot_be_written_is_an_error(demo: Bundle, providers: list[Any], tmp_path: Path) -> None:
    """The error comes before TensorRT spends minutes on a result that cannot be kept."""
    (tmp_path / "swin-serve").write_text("a file where the folder should be")

    with pytest.raises(DeviceError, match=r"TensorRT cannot keep what it compiles: .*; set XDG_CACHE_HOME"):
        engine_of(demo, Device("tensorrt"))
    assert providers == []


def test_tensorrt_without_tensorrt_is_an_error(demo: Bundle) -> None:
    """A build without TensorRT is an error; no session is opened on CUDA instead."""
    with pytest.raises(DeviceError, match="built without TensorrtExecutionProvider"):
        engine_of(demo, Device("tensorrt"))
