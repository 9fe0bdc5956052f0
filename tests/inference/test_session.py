"""`app/inference/session.py`: the session's report verifies its device."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from app.bundle.load import Bundle
from app.bundle.manifest import MODEL
from app.bundle.private_file import PrivateFile
from app.errors import BundleError, DeviceError
from app.inference.cuda import Gpu
from app.inference.engine import open_engine
from app.inference.self_test import open_unverified
from app.inference.session import Network
from app.system.device import Device
from tests.support.engines import ALLOCATION, engine_of


@pytest.fixture
def a_build_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ONNX Runtime list CUDA, and let CUDA's checks pass."""
    listed = [*onnxruntime.get_available_providers(), "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    for check in ("check_gpu", "check_libraries"):
        monkeypatch.setattr(f"app.inference.cuda.{check}", lambda *_: None)
    monkeypatch.setattr("app.inference.cuda.describe_gpu", lambda index: Gpu(f"GPU {index}", None, "13.0", None, None))


def test_cuda_without_cuda_is_an_error(demo: Bundle) -> None:
    """A build without CUDA is an error; no session is opened on the CPU instead."""
    with pytest.raises(DeviceError, match="built without CUDAExecutionProvider"):
        engine_of(demo, Device("cuda", 1))


@pytest.mark.usefixtures("a_build_with_cuda")
def test_a_provider_that_does_not_load_is_an_error(demo: Bundle) -> None:
    """ONNX Runtime only warns if a listed provider does not load; swin-serve raises."""
    with pytest.raises(DeviceError, match="cannot open the model with CUDAExecutionProvider"):
        engine_of(demo, Device("cuda", 1))


@pytest.mark.usefixtures("a_build_with_cuda")
def test_the_error_names_a_missing_library(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries are checked only after ONNX Runtime has tried to open the session."""
    opened = fake_session(monkeypatch, CPU, {CPU: 130})

    def check(*_: Any) -> None:
        raise DeviceError(f"libcudnn.so.9 is missing, after {len(opened)} steps")

    monkeypatch.setattr("app.inference.cuda.check_libraries", check)
    with pytest.raises(DeviceError, match=r"libcudnn\.so\.9 is missing, after 2 steps"):
        engine_of(demo, Device("cuda", 1))


@pytest.mark.usefixtures("a_build_with_cuda")
def test_a_missing_gpu_is_an_error_before_a_session_is_opened(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is for this GPU, and for the CUDA version that ONNX Runtime is built for."""
    opened = fake_session(monkeypatch, CUDA, {CUDA: 130})
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")

    def check(index: int, built_for: str) -> None:
        raise DeviceError(f"no GPU {index} for {built_for}")

    monkeypatch.setattr("app.inference.cuda.check_gpu", check)
    with pytest.raises(DeviceError, match=r"no GPU 1 for 13\.0"):
        engine_of(demo, Device("cuda", 1))
    assert opened == []


@pytest.mark.usefixtures("a_build_with_cuda")
def test_a_session_that_fell_back_is_an_error(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that was opened for CUDA and reports the CPU is an error."""
    original = onnxruntime.InferenceSession

    def falls_back(model: Any, *_: Any, **__: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return original(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(DeviceError, match="opened for CUDAExecutionProvider but runs on CPUExecutionProvider"):
        engine_of(demo, Device("cuda", 1))


def fake_session(monkeypatch: pytest.MonkeyPatch, provider: str, nodes: dict[str, int]) -> list[Any]:
    """Let sessions report this provider and these nodes; return what they are opened with."""
    opened_with: list[Any] = []

    def parts() -> list[SimpleNamespace]:
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [0] * count) for name, count in nodes.items()
        ]

    def opened(_: Any, options: Any, providers: Any, **others: Any) -> SimpleNamespace:
        opened_with.append((options, providers, others))
        return SimpleNamespace(
            get_providers=lambda: [provider, "CPUExecutionProvider"],
            get_provider_graph_assignment_info=parts,
            get_inputs=lambda: [SimpleNamespace(name="pixels", type="tensor(uint8)", shape=["batch", 32, 32, 3])],
            get_outputs=lambda: [
                SimpleNamespace(name="logits", type="tensor(float)", shape=["batch", 10]),
                SimpleNamespace(name="tokens", type="tensor(float)", shape=["batch", 16, 96]),
            ],
            disable_fallback=lambda: opened_with.append("no fallback"),
        )

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    return opened_with


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.mark.usefixtures("a_build_with_cuda")
def test_cuda_is_the_only_provider(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no second provider, no node on the CPU, no fallback, no TF32 and no spinning."""
    opened_with = fake_session(monkeypatch, CUDA, {CUDA: 130})

    engine = engine_of(demo, Device("cuda", 1))

    (options, providers, others), fallback = opened_with
    assert providers == [(CUDA, {"device_id": "1", "use_tf32": "0", "enable_cuda_graph": "1"})]
    assert engine.device_report.gpu == Gpu("GPU 1", None, "13.0", None, None)
    assert (others, fallback) == ({"enable_fallback": 0}, "no fallback")
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.usefixtures("a_build_with_cuda")
@pytest.mark.parametrize("nodes", [{}, {CPU: 130}, {CUDA: 129, CPU: 1}])
def test_every_node_must_run_on_the_provider(
    demo: Bundle, monkeypatch: pytest.MonkeyPatch, nodes: dict[str, int]
) -> None:
    """A session that reports CUDA but has nodes elsewhere, or none, is an error."""
    fake_session(monkeypatch, CUDA, nodes)

    with pytest.raises(DeviceError, match="would not run on CUDAExecutionProvider alone"):
        engine_of(demo, Device("cuda", 1))


@pytest.mark.parametrize(
    "change",
    [{"input_size": (64, 32)}, {"classes": 11}, {"tokens": (16, 48)}, {"input_size": (32, 32, 3)}],
    ids=["size", "classes", "tokens", "rank"],
)
def test_a_model_of_another_shape_is_refused(demo: Bundle, change: dict[str, Any]) -> None:
    """The input and outputs of the model must match the manifest."""
    signature: dict[str, Any] = {"input_size": (32, 32), "classes": 10, "tokens": (16, 96)}

    with pytest.raises(BundleError, match="the manifest asks for"):
        open_engine(Network(demo.model, **(signature | change)), Device("cpu"), threads=1, buckets=[1])


@pytest.mark.usefixtures("a_build_with_cuda")
def test_graphs_can_be_turned_off(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The option of the provider is 0, and the device report says so."""
    opened_with = fake_session(monkeypatch, CUDA, {CUDA: 130})

    engine = open_unverified(demo, Device("cuda"), 1, [1], graphs=False)

    assert opened_with[0][1][0][1]["enable_cuda_graph"] == "0"
    assert not engine.device_report.graphs


@pytest.mark.usefixtures("a_build_with_cuda")
def test_a_network_that_does_not_fit_is_an_error(demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the weights do not fit into memory, the error names the device."""

    def opened(*_: Any, **__: Any) -> None:
        raise RuntimeError(ALLOCATION)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    with pytest.raises(DeviceError, match="cuda:0 has too little memory left for the network"):
        engine_of(demo, Device("cuda"))


def test_telemetry_is_off(demo: Bundle, tmp_path: Path) -> None:
    """ONNX Runtime's telemetry, on in official builds, leaves no device id and no outbox."""
    opens = (
        f"from app.inference import onnx_runtime; onnx_runtime.load().InferenceSession({str(demo.folder / MODEL)!r})"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    homes = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}

    subprocess.run([sys.executable, "-c", opens], env=environment | homes, check=True)  # noqa: S603 (code of this test)

    assert list(tmp_path.rglob("*")) == []


IMPORTS = """\
import importlib, os, pkgutil, sys
import app.inference
before = dict(os.environ)
for module in pkgutil.iter_modules(app.inference.__path__, "app.inference."):
    importlib.import_module(module.name)
assert os.environ == before
print("onnxruntime" in sys.modules)
"""


def test_importing_loads_nothing() -> None:
    """Importing every module of `app.inference` sets no variable and does not load ONNX Runtime."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, "-c", IMPORTS]

    ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)  # noqa: S603 (code of this test)

    assert ended.stdout == "False\n"


def test_a_file_that_is_no_model_is_an_error(demo: Bundle) -> None:
    """The error has one line."""
    no_model = replace(demo, network=PrivateFile(io.BytesIO(b"not a model")))

    with pytest.raises(DeviceError, match="cannot open the model") as error:
        engine_of(no_model)

    assert "\n" not in str(error.value)
