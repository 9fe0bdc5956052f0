"""NVIDIA's driver and libraries, called directly: GPUs, versions, page-locked memory.

ONNX Runtime seldom says why CUDA does not work, and says some of it on stderr only. So the driver,
the GPU and the version are checked before a session is opened, and the libraries after opening has
failed.
"""

import ctypes
import logging
import mmap
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from app.errors import DeviceError

log = logging.getLogger("swin.start")

DRIVER = "libcuda.so.1"
DRIVER_VERSION_FILE, MAPS_FILE = Path("/proc/driver/nvidia/version"), Path("/proc/self/maps")
SHARED_LIBRARY, PROVIDER_LIBRARY = "libonnxruntime_providers_shared.so", "libonnxruntime_providers_{}.so"
CUDA_ERROR_NO_DEVICE = 100
NAME_BYTES = 256

# The result type and the argument types of every C function that is called here. CUresult and
# cudaError_t are enums.
SIGNATURES: Mapping[str, tuple[Any, Sequence[Any]]] = {
    # libcuda, CUDA Driver API
    "cuInit": (c_int, [c_uint]),
    "cuDeviceGetCount": (c_int, [POINTER(c_int)]),
    "cuDeviceGetName": (c_int, [c_char_p, c_int, c_int]),
    "cuDriverGetVersion": (c_int, [POINTER(c_int)]),
    # libcudart, CUDA Runtime API
    "cudaRuntimeGetVersion": (c_int, [POINTER(c_int)]),
    "cudaHostRegister": (c_int, [c_void_p, c_size_t, c_uint]),
    "cudaHostUnregister": (c_int, [c_void_p]),
    # libcudnn
    "cudnnGetVersion": (c_size_t, []),
}

_load: Callable[..., ctypes.CDLL] = ctypes.CDLL


@dataclass(frozen=True)
class Gpu:
    """The name of a GPU, and the versions of driver and libraries; None if one cannot be read."""

    name: str
    driver: str | None
    driver_cuda: str  # the newest version of CUDA that the driver supports
    cuda: str | None  # the version of the loaded library
    cudnn: str | None  # likewise


def gpu_count() -> int:
    """Return how many GPUs the driver shows to this process: it applies CUDA_VISIBLE_DEVICES.

    Raises:
        DeviceError: there is no driver, no GPU, or the driver does not start.
    """
    return _read_int(_open_driver(), "cuDeviceGetCount")


def check_gpu(index: int, built_for: str) -> None:
    """Check that the GPU exists, and that the driver supports CUDA `built_for`, such as "13.0".

    Raises:
        DeviceError: the driver, the GPU or the version is missing.
    """
    driver = _open_driver()
    if index >= (count := _read_int(driver, "cuDeviceGetCount")):
        raise DeviceError(f"there is no GPU {index}: the driver shows {count}, counted from 0")
    newest = _version(_read_int(driver, "cuDriverGetVersion"))
    if _major(newest) < _major(built_for):  # within one major version, older drivers run newer builds
        raise DeviceError(
            f"the driver runs CUDA up to {newest}, this ONNX Runtime is built for {built_for}: update the driver"
        )


def describe_gpu(index: int) -> Gpu:
    """Return the name of the GPU, and the versions of its driver and of the loaded libraries.

    Raises:
        DeviceError: a call to the driver or to CUDA fails.
    """
    driver, name = _open_driver(), ctypes.create_string_buffer(NAME_BYTES)
    if error := _function(driver, "cuDeviceGetName")(name, NAME_BYTES, index):
        raise DeviceError(f"cuDeviceGetName failed with CUDA error {error}")
    cuda, cudnn = _loaded("libcudart"), _loaded("libcudnn")
    return Gpu(
        name.value.decode(),
        _driver_version(),
        _version(_read_int(driver, "cuDriverGetVersion")),
        _version(_read_int(cuda, "cudaRuntimeGetVersion")) if cuda else None,
        _cudnn_version(_function(cudnn, "cudnnGetVersion")()) if cudnn else None,
    )


def page_locked(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[np.uint8]:
    """Return zeros in page-locked memory, from which a GPU copies directly.

    If CUDA is not loaded or refuses, return zeros in ordinary memory.
    """
    memory = mmap.mmap(-1, prod(shape) * np.dtype(dtype).itemsize)  # pages that hold nothing else
    array = np.frombuffer(memory, dtype).reshape(shape)
    cuda = _loaded("libcudart")
    if cuda is None:
        return array
    address = array.ctypes.data
    if error := _function(cuda, "cudaHostRegister")(address, array.nbytes, 0):
        log.warning("memory is not page-locked", extra={"bytes": array.nbytes, "cuda_error": error})
        return array
    weakref.finalize(array, _function(cuda, "cudaHostUnregister"), address)
    return array


def check_libraries(folder: Path, kind: str) -> None:
    """Check that every library loads that ONNX Runtime's provider of this kind depends on.

    `folder` contains the provider. Call this only after ONNX Runtime has tried to load the
    provider. A provider asks for its host once, when it is loaded. A provider that was loaded
    earlier by another caller never gets a host.

    Raises:
        DeviceError: a library does not load; the message names the first one.
    """
    try:
        # The provider is linked to nothing and expects the symbols of the shared library to be
        # global.
        _load(str(folder / SHARED_LIBRARY), ctypes.RTLD_GLOBAL)
        _load(str(folder / PROVIDER_LIBRARY.format(kind)))
    except OSError as error:
        cure = "pip install 'swin-serve[gpu]' brings CUDA's, pip install tensorrt-cu13 TensorRT's"
        raise DeviceError(f"a library that {kind} needs does not load ({error}): {cure}") from error


def _open_driver() -> ctypes.CDLL:
    try:
        driver = _load(DRIVER)
    except OSError as error:
        raise DeviceError(
            f"there is no NVIDIA driver ({error}); a container gets the host's by `--gpus all`"
        ) from error
    if code := _function(driver, "cuInit")(0):
        reason = "it shows no GPU" if code == CUDA_ERROR_NO_DEVICE else f"it fails with CUDA error {code}"
        raise DeviceError(f"NVIDIA's driver is there, but {reason}")
    return driver


def _function(library: ctypes.CDLL, name: str) -> Callable[..., int]:
    """Return a C function of the library with its types from `SIGNATURES`."""
    function = library[name]  # a new object each time; `library.name` would be shared
    function.restype, function.argtypes = SIGNATURES[name]
    return function


def _read_int(library: ctypes.CDLL, name: str) -> int:
    """Call a function that writes one integer, and return the integer."""
    value = c_int()
    if error := _function(library, name)(ctypes.byref(value)):
        raise DeviceError(f"{name} failed with CUDA error {error}")
    return value.value


def _loaded(name: str) -> ctypes.CDLL | None:
    """Return the library of this name that this process has loaded; never load a second copy."""
    found = re.search(rf"/\S*/{name}\.so\S*", MAPS_FILE.read_text())
    return _load(found[0]) if found else None


def _driver_version() -> str | None:
    try:
        found = re.search(r"\d+\.\d+(\.\d+)?", DRIVER_VERSION_FILE.read_text())
    except OSError:
        return None
    return found[0] if found else None


def _version(number: int) -> str:
    """Return a version of CUDA in words: 12040 → 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _cudnn_version(number: int) -> str:
    """Return a version of cuDNN in words: 91002 → 9.10.2."""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _major(version: str) -> int:
    return int(version.partition(".")[0])
