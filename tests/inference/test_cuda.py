"""Each thing that CUDA can lack, told by name: with a driver that is a stand-in."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import DeviceError
from app.inference import cuda


class Driver(dict[str, Callable[..., int]]):
    """NVIDIA's, with so many GPUs, up to a version of CUDA, or failing at a question or at the start."""

    def __init__(self, gpus: int = 2, version: int = 13000, *, start: int = 0, failing: str = "") -> None:
        for question, value in (("cuDeviceGetCount", gpus), ("cuDriverGetVersion", version)):
            self[question] = self._answering(value, 999 if question == failing else 0)
        self.cuInit = lambda _: start

    @staticmethod
    def _answering(value: int, code: int) -> Callable[[Any], int]:
        def answer(place: Any) -> int:
            place._obj.value = value  # noqa: SLF001 (what byref leaves of its argument)
            return code

        return answer


def having(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    monkeypatch.setattr(cuda, "_load", lambda _: driver)


@pytest.mark.parametrize(
    ("driver", "sentence"),
    [
        (Driver(start=100), "NVIDIA's driver is there, but it shows no GPU"),
        (Driver(start=803), "NVIDIA's driver is there, but it fails with CUDA error 803"),
        (Driver(failing="cuDeviceGetCount"), "answers cuDeviceGetCount with CUDA error 999"),
        (Driver(gpus=1), "there is no GPU 1: the driver shows 1, counted from 0"),
        (Driver(version=12040), r"runs CUDA up to 12\.4, this ONNX Runtime is built for 13\.0: update the driver"),
    ],
    ids=["no GPU", "no start", "no answer", "no such GPU", "too old"],
)
def test_a_driver_that_does_not_do_is_told_why(driver: Driver, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found and wanted stand in one sentence."""
    having(monkeypatch, driver)

    with pytest.raises(DeviceError, match=sentence):
        cuda.check_gpu(1, "13.0")


@pytest.mark.parametrize("built_for", ["12.8", "13.0", "13.2"])
def test_a_driver_runs_what_is_older_and_of_its_own_major_version(
    built_for: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA keeps to its major version both ways; refusing more would refuse what works."""
    having(monkeypatch, Driver(version=13000))

    cuda.check_gpu(1, built_for)


def test_gpus_are_those_the_driver_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those in the machine: CUDA_VISIBLE_DEVICES is the driver's affair."""
    having(monkeypatch, Driver(gpus=3))

    assert cuda.gpus() == 3


def test_a_missing_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the loader says it, and what helps in a container."""
    monkeypatch.setattr(cuda, "DRIVER", "libnot-there.so.1")

    with pytest.raises(DeviceError, match=r"no NVIDIA driver \(libnot-there\.so\.1: .*--gpus all"):
        cuda.gpus()


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that the loader cannot find, and the package that brings it."""

    def load(name: str, _: int = ctypes.RTLD_LOCAL) -> None:
        if name.endswith("_cuda.so"):
            raise OSError("libcudnn.so.9: cannot open shared object file")

    monkeypatch.setattr(cuda, "_load", load)

    with pytest.raises(DeviceError, match=r"\(libcudnn\.so\.9: .*pip install 'swin-serve\[gpu\]'"):
        cuda.check_libraries(tmp_path, "cuda")


def test_what_the_provider_expects_is_loaded_for_all_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds the symbols of the shared library only if that came first, and globally."""
    loaded = list[tuple[str, int]]()
    monkeypatch.setattr(cuda, "_load", lambda name, mode=ctypes.RTLD_LOCAL: loaded.append((Path(name).name, mode)))

    cuda.check_libraries(tmp_path, "tensorrt")

    own = "libonnxruntime_providers_tensorrt.so"
    assert loaded == [(cuda.SHARED, ctypes.RTLD_GLOBAL), (own, ctypes.RTLD_LOCAL)]


class Library(dict[str, Callable[..., int]]):
    """One of CUDA's, whose answers are given; what it was asked with is kept."""

    def __init__(self, **answers: int) -> None:
        self.asked: list[tuple[str, Any]] = []
        for name, answer in answers.items():
            self[name] = lambda *arguments, name=name, answer=answer: self._answer(name, arguments, answer)

    def _answer(self, name: str, arguments: tuple[Any, ...], answer: int) -> int:
        self.asked.append((name, arguments))
        if name.endswith("GetVersion") and arguments:
            arguments[0]._obj.value = answer  # noqa: SLF001 (what byref leaves of its argument)
            return 0
        return answer


def loading(monkeypatch: pytest.MonkeyPatch, folder: Path, **libraries: Any) -> None:
    """Have this process loaded these, by the names they have as files."""
    maps = folder / "maps"
    files = {f"/opt/{name}.so.13": library for name, library in libraries.items() if name != "driver"}
    maps.write_text("".join(f"7f00-7f01 r-xp 00000000 fe:00 12   {file}\n" for file in files))
    monkeypatch.setattr(cuda, "LOADED", maps)
    monkeypatch.setattr(cuda, "_load", (files | {cuda.DRIVER: libraries.get("driver")}).__getitem__)


def named(driver: Driver) -> Driver:
    def name(place: Any, size: int, _: int) -> int:
        assert size == len(place)
        place.value = b"NVIDIA H200"
        return 0

    driver["cuDeviceGetName"] = name
    return driver


def test_a_gpu_is_told_with_all_that_serves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name, the driver's version and the newest CUDA it runs, and CUDA and cuDNN as they are loaded."""
    says = tmp_path / "version"
    says.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 2025\nGCC version 12.2\n")
    monkeypatch.setattr(cuda, "DRIVER_SAYS", says)
    libcudart, cudnn = Library(cudaRuntimeGetVersion=13000), Library(cudnnGetVersion=91002)
    loading(monkeypatch, tmp_path, driver=named(Driver(version=13010)), libcudart=libcudart, libcudnn=cudnn)

    assert cuda.about(1) == cuda.Gpu("NVIDIA H200", "580.65.06", "13.1", "13.0", "9.10.2")


def test_a_version_that_cannot_be_told_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the driver's, where its file is not shown; of libraries that are not loaded, which are not loaded for it."""
    monkeypatch.setattr(cuda, "DRIVER_SAYS", tmp_path / "nowhere")
    loading(monkeypatch, tmp_path, driver=named(Driver(version=12040)))

    assert cuda.about(0) == cuda.Gpu("NVIDIA H200", None, "12.4", None, None)


def test_page_locked_memory_is_registered_as_long_as_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, at its place, and no longer than somebody has it."""
    libcudart = Library(cudaHostRegister=0, cudaHostUnregister=0)
    loading(monkeypatch, tmp_path, libcudart=libcudart)

    array = cuda.page_locked((2, 4, 4, 3), np.uint8)
    place = array.ctypes.data
    assert array.shape == (2, 4, 4, 3)
    assert not array.any()
    array[:] = 1
    del array

    ((_, (registered, size, _)), (_, (unregistered,))) = libcudart.asked
    assert [name for name, _ in libcudart.asked] == ["cudaHostRegister", "cudaHostUnregister"]
    assert (registered.value, size.value, unregistered.value) == (place, 96, place)


def test_memory_that_cannot_be_page_locked_serves_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is slower, which the log says, and nothing is taken back that was not given."""
    libcudart = Library(cudaHostRegister=2, cudaHostUnregister=0)
    loading(monkeypatch, tmp_path, libcudart=libcudart)

    cuda.page_locked((2, 3), np.uint8)

    assert [name for name, _ in libcudart.asked] == ["cudaHostRegister"]
    assert "memory is not page-locked" in caplog.text


def test_without_cuda_nothing_is_page_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nobody to read it by itself, and nothing to complain of."""
    loading(monkeypatch, tmp_path)

    assert cuda.page_locked((2, 3), np.uint8).tolist() == [[0] * 3] * 2
