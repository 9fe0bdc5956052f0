"""What NVIDIA's driver says about its GPUs, asked without ONNX Runtime: which is there, and what it can run.

ONNX Runtime says little of why it has no CUDA, and some of it only on stderr. The driver, the GPU and the version are
therefore looked at before it is asked, the libraries after it failed.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

from app.errors import DeviceError

DRIVER = "libcuda.so.1"
SHARED, CUDA = "libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE

_load: Callable[..., ctypes.CDLL] = ctypes.CDLL


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
    major, minor = divmod(_asked(driver, "cuDriverGetVersion"), 1000)  # 12040 is 12.4
    if major < int(built_for.split(".", maxsplit=1)[0]):  # within one major version, older drivers run newer builds
        raise DeviceError(
            f"the driver runs CUDA up to {major}.{minor // 10}, this ONNX Runtime is built for {built_for}: "
            "update the driver"
        )


def check_libraries(folder: Path) -> None:
    """Whether all that ONNX Runtime's CUDA provider in this folder needs can be loaded.

    Only after ONNX Runtime has tried: the provider asks for its host once, as it is loaded, and loaded by anybody else
    before would never have one.

    Raises:
        DeviceError: naming the first that is missing.
    """
    try:
        _load(str(folder / SHARED), ctypes.RTLD_GLOBAL)  # the provider is linked to nothing, and expects its symbols
        _load(str(folder / CUDA))
    except OSError as error:
        raise DeviceError(
            f"a library that CUDA needs does not load ({error}): pip install 'swin-serve[gpu]' brings them"
        ) from error


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
