"""`app/inference/cuda.py` with a fake driver and fake CUDA: errors name what is missing."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import DeviceError
from app.inference import cuda


class Driver(dict[str, Callable[..., int]]):
    """A fake libcuda with a number of GPUs, a version, and a function or a start that fails."""

    def __init__(self, gpus: int = 2, version: int = 13000, *, start: int = 0, failing: str = "") -> None:
        for name, value in (("cuDeviceGetCount", gpus), ("cuDriverGetVersion", version)):
            self[name] = self._writing(value, 999 if name == failing else 0)
        self["cuInit"] = lambda _: start

    @staticmethod
    def _writing(value: int, code: int) -> Callable[[Any], int]:
        def write(pointer: Any) -> int:
            pointer._obj.value = value  # noqa: SLF001 (the argument of byref)
            return code

        return write


def use_driver(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    monkeypatch.setattr(cuda, "_load", lambda _: driver)


@pytest.mark.parametrize(
    ("driver", "message"),
    [
        (Driver(start=100), "NVIDIA's driver is there, but it shows no GPU"),
        (Driver(start=803), "NVIDIA's driver is there, but it fails with CUDA error 803"),
        (Driver(failing="cuDeviceGetCount"), "cuDeviceGetCount failed with CUDA error 999"),
        (Driver(gpus=1), "there is no GPU 1: the driver shows 1, counted from 0"),
        (Driver(version=12040), r"runs CUDA up to 12\.4, this ONNX Runtime is built for 13\.0: update the driver"),
    ],
    ids=["no GPU", "no start", "a failing call", "no such GPU", "too old"],
)
def test_an_unusable_driver_is_an_error(driver: Driver, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says in one sentence what was found and what is needed."""
    use_driver(monkeypatch, driver)

    with pytest.raises(DeviceError, match=message):
        cuda.check_gpu(1, "13.0")


@pytest.mark.parametrize("built_for", ["12.8", "13.0", "13.2"])
def test_a_driver_supports_older_versions_and_its_own_major_version(
    built_for: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA is compatible in both directions within a major version."""
    use_driver(monkeypatch, Driver(version=13000))

    cuda.check_gpu(1, built_for)


def test_the_driver_counts_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count is the driver's, which applies CUDA_VISIBLE_DEVICES."""
    use_driver(monkeypatch, Driver(gpus=3))

    assert cuda.gpu_count() == 3


def test_a_missing_driver_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the loader's words, and the option that helps in a container."""
    monkeypatch.setattr(cuda, "DRIVER", "libnot-there.so.1")

    with pytest.raises(DeviceError, match=r"no NVIDIA driver \(libnot-there\.so\.1: .*--gpus all"):
        cuda.gpu_count()


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the first library that the loader cannot find, and its package."""

    def load(name: str, _: int = ctypes.RTLD_LOCAL) -> None:
        if name.endswith("_cuda.so"):
            raise OSError("libcudnn.so.9: cannot open shared object file")

    monkeypatch.setattr(cuda, "_load", load)

    with pytest.raises(DeviceError, match=r"\(libcudnn\.so\.9: .*pip install 'swin-serve\[gpu\]'"):
        cuda.check_libraries(tmp_path, "cuda")


def test_the_shared_library_is_loaded_globally_before_the_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the provider does not find the symbols of the shared library."""
    loaded = list[tuple[str, int]]()
    monkeypatch.setattr(cuda, "_load", lambda name, mode=ctypes.RTLD_LOCAL: loaded.append((Path(name).name, mode)))

    cuda.check_libraries(tmp_path, "tensorrt")

    provider = "libonnxruntime_providers_tensorrt.so"
    assert loaded == [(cuda.SHARED_LIBRARY, ctypes.RTLD_GLOBAL), (provider, ctypes.RTLD_LOCAL)]


class Library(dict[str, Callable[..., int]]):
    """A stand-in for a library of CUDA with fixed results. It records its calls."""

    def __init__(self, **results: int) -> None:
        self.calls: list[tuple[str, Any]] = []
        for name, result in results.items():
            self[name] = lambda *arguments, name=name, result=result: self._call(name, arguments, result)

    def _call(self, name: str, arguments: tuple[Any, ...], result: int) -> int:
        self.calls.append((name, arguments))
        if name.endswith("GetVersion") and arguments:
            arguments[0]._obj.value = result  # noqa: SLF001 (the argument of byref)
            return 0
        return result


def use_libraries(monkeypatch: pytest.MonkeyPatch, folder: Path, **libraries: Any) -> None:
    """Let this process appear to have loaded these libraries, named as their files."""
    maps = folder / "maps"
    files = {f"/opt/{name}.so.13": library for name, library in libraries.items() if name != "driver"}
    maps.write_text("".join(f"7f00-7f01 r-xp 00000000 fe:00 12   {file}\n" for file in files))
    monkeypatch.setattr(cuda, "MAPS_FILE", maps)
    monkeypatch.setattr(cuda, "_load", (files | {cuda.DRIVER: libraries.get("driver")}).__getitem__)


def with_name(driver: Driver) -> Driver:
    def write_name(buffer: Any, size: int, _: int) -> int:
        assert size == len(buffer)
        buffer.value = b"NVIDIA H200"
        return 0

    driver["cuDeviceGetName"] = write_name
    return driver


def test_a_gpu_is_described_with_its_software(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU has a name, and versions of the driver, its newest CUDA, CUDA and cuDNN."""
    version_file = tmp_path / "version"
    version_file.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 2025\nGCC version 12.2\n"
    )
    monkeypatch.setattr(cuda, "DRIVER_VERSION_FILE", version_file)
    libcudart, cudnn = Library(cudaRuntimeGetVersion=13000), Library(cudnnGetVersion=91002)
    use_libraries(monkeypatch, tmp_path, driver=with_name(Driver(version=13010)), libcudart=libcudart, libcudnn=cudnn)

    assert cuda.describe_gpu(1) == cuda.Gpu("NVIDIA H200", "580.65.06", "13.1", "13.0", "9.10.2")


def test_an_unknown_version_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version file may be missing, and missing libraries are not loaded for the report."""
    monkeypatch.setattr(cuda, "DRIVER_VERSION_FILE", tmp_path / "nowhere")
    use_libraries(monkeypatch, tmp_path, driver=with_name(Driver(version=12040)))

    assert cuda.describe_gpu(0) == cuda.Gpu("NVIDIA H200", None, "12.4", None, None)


def test_page_locked_memory_is_registered_while_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the array is registered at its address, and unregistered when the array is deleted."""
    libcudart = Library(cudaHostRegister=0, cudaHostUnregister=0)
    use_libraries(monkeypatch, tmp_path, libcudart=libcudart)

    array = cuda.page_locked((2, 4, 4, 3), np.uint8)
    address = array.ctypes.data
    assert array.shape == (2, 4, 4, 3)
    assert not array.any()
    array[:] = 1
    del array

    ((_, (registered, size, _)), (_, (unregistered,))) = libcudart.calls
    assert [name for name, _ in libcudart.calls] == ["cudaHostRegister", "cudaHostUnregister"]
    assert (registered, size, unregistered) == (address, 96, address)


def test_memory_that_cannot_be_page_locked_is_used_anyway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log warns of it, and memory that was not registered is not unregistered."""
    libcudart = Library(cudaHostRegister=2, cudaHostUnregister=0)
    use_libraries(monkeypatch, tmp_path, libcudart=libcudart)

    cuda.page_locked((2, 3), np.uint8)

    assert [name for name, _ in libcudart.calls] == ["cudaHostRegister"]
    assert "memory is not page-locked" in caplog.text


def test_without_cuda_nothing_is_page_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without CUDA, the memory is ordinary and nothing is logged."""
    use_libraries(monkeypatch, tmp_path)

    assert cuda.page_locked((2, 3), np.uint8).tolist() == [[0] * 3] * 2


def test_every_c_function_that_is_called_has_declared_types() -> None:
    """`_function` gives each function the types of `SIGNATURES`; no call goes past it."""
    library: Any = {"cuDeviceGetName": lambda *_: 0}

    function: Any = cuda._function(library, "cuDeviceGetName")  # noqa: SLF001 (every call goes through it)

    assert function.restype is ctypes.c_int
    assert list(function.argtypes) == [ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
