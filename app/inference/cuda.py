"""NVIDIA's driver and libraries, asked without ONNX Runtime: which GPU is there, what it runs; memory it reads itself.

ONNX Runtime says little of why it has no CUDA, and some of it only on stderr. The driver, the GPU and the version are
therefore looked at before it is asked, the libraries after it failed.
"""

import ctypes
import logging
import mmap
import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from app.errors import DeviceError

log = logging.getLogger("swin.start")

DRIVER = "libcuda.so.1"
DRIVER_SAYS, LOADED = Path("/proc/driver/nvidia/version"), Path("/proc/self/maps")
SHARED, PROVIDER = "libonnxruntime_providers_shared.so", "libonnxruntime_providers_{}.so"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE

NAME_BYTES = 256

_load: Callable[..., ctypes.CDLL] = ctypes.CDLL


@dataclass(frozen=True)
class Gpu:
    """Which it is, and the versions of all that is between it and ONNX Runtime; None where one cannot be told."""

    name: str
    driver: str | None
    driver_cuda: str  # the newest that the driver runs
    cuda: str | None  # that is loaded
    cudnn: str | None  # likewise


def gpus() -> int:
    """How many GPUs the driver shows to this process; CUDA_VISIBLE_DEVICES is its affair.

    Raises:
        DeviceError: there is no driver, no GPU, or it does not start.
    """
    return _asked(_started(), "cuDeviceGetCount")


def check_gpu(index: int, built_for: str) -> None:
    """Whether there is such a GPU, with a driver that can run what was built for this version of CUDA, as "13.0".

    Raises:
        DeviceError: in one sentence, what is missing.
    """
    driver = _started()
    if index >= (count := _asked(driver, "cuDeviceGetCount")):
        raise DeviceError(f"there is no GPU {index}: the driver shows {count}, counted from 0")
    newest = _version(_asked(driver, "cuDriverGetVersion"))
    if _major(newest) < _major(built_for):  # within one major version, older drivers run newer builds
        raise DeviceError(
            f"the driver runs CUDA up to {newest}, this ONNX Runtime is built for {built_for}: update the driver"
        )


def about(index: int) -> Gpu:
    """This GPU, and the libraries that this process has loaded for it.

    Raises:
        DeviceError: the driver does not answer.
    """
    driver, name = _started(), ctypes.create_string_buffer(NAME_BYTES)
    if failure := driver["cuDeviceGetName"](name, NAME_BYTES, index):
        raise DeviceError(f"NVIDIA's driver answers cuDeviceGetName with CUDA error {failure}")
    cuda, cudnn = _loaded("libcudart"), _loaded("libcudnn")
    return Gpu(
        name.value.decode(),
        _driver_version(),
        _version(_asked(driver, "cuDriverGetVersion")),
        _version(_asked(cuda, "cudaRuntimeGetVersion")) if cuda else None,
        _version_of_cudnn(cudnn["cudnnGetVersion"]()) if cudnn else None,
    )


def page_locked(shape: tuple[int, ...], kind: DTypeLike) -> NDArray[np.uint8]:
    """Zeros that a GPU reads by itself, because they cannot be moved meanwhile; ordinary ones where CUDA refuses."""
    memory = mmap.mmap(-1, prod(shape) * np.dtype(kind).itemsize)  # pages of its own
    array = np.frombuffer(memory, kind).reshape(shape)
    cuda = _loaded("libcudart")
    if cuda is None:
        return array
    place = ctypes.c_void_p(array.ctypes.data)
    if failure := cuda["cudaHostRegister"](place, ctypes.c_size_t(array.nbytes), 0):
        log.warning("memory is not page-locked", extra={"bytes": array.nbytes, "cuda_error": failure})
        return array
    weakref.finalize(array, cuda["cudaHostUnregister"], place)
    return array


def check_libraries(folder: Path, kind: str) -> None:
    """Whether all that ONNX Runtime's provider of this kind, in this folder, needs can be loaded.

    Only after ONNX Runtime has tried: the provider asks for its host once, as it is loaded, and loaded by anybody else
    before would never have one.

    Raises:
        DeviceError: naming the first that is missing.
    """
    try:
        _load(str(folder / SHARED), ctypes.RTLD_GLOBAL)  # the provider is linked to nothing, and expects its symbols
        _load(str(folder / PROVIDER.format(kind)))
    except OSError as error:
        cure = "pip install 'swin-serve[gpu]' brings CUDA's, pip install tensorrt-cu13 TensorRT's"
        raise DeviceError(f"a library that {kind} needs does not load ({error}): {cure}") from error


def _started() -> ctypes.CDLL:
    try:
        driver = _load(DRIVER)
    except OSError as error:
        raise DeviceError(
            f"there is no NVIDIA driver ({error}); a container gets the host's by `--gpus all`"
        ) from error
    if failure := driver.cuInit(0):
        reason = "it shows no GPU" if failure == NO_DEVICE else f"it fails with CUDA error {failure}"
        raise DeviceError(f"NVIDIA's driver is there, but {reason}")
    return driver


def _asked(driver: ctypes.CDLL, question: str) -> int:
    answer = ctypes.c_int()
    if failure := driver[question](ctypes.byref(answer)):
        raise DeviceError(f"NVIDIA's driver answers {question} with CUDA error {failure}")
    return answer.value


def _loaded(name: str) -> ctypes.CDLL | None:
    """The library of this name that this process has in memory; never a second one."""
    found = re.search(rf"/\S*/{name}\.so\S*", LOADED.read_text())
    return _load(found[0]) if found else None


def _driver_version() -> str | None:
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", DRIVER_SAYS.read_text())
    except OSError:
        return None
    return found[0] if found else None


def _version(number: int) -> str:
    """As CUDA counts: 12040 → 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _version_of_cudnn(number: int) -> str:
    """91002 → 9.10.2."""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _major(version: str) -> int:
    return int(version.partition(".")[0])
