"""TensorRT, NVIDIA's compiler: its libraries, its options, and the cache of compiled networks.

TensorRT compiles a network for one GPU, which takes minutes. The cache keeps the result for the
next start. Options are those of ONNX Runtime's TensorRT provider, as documented. Opens no session.
"""

import ctypes
import importlib.util
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from app.bundle.digests import file_digest

LIBRARIES = ("libnvinfer.so.10", "libnvonnxparser.so.10")
# The package of NVIDIA's wheels that contains the libraries. The loader does not search there.
PACKAGE = "tensorrt_libs"


def load() -> None:
    """Load the libraries from NVIDIA's wheel. Without the wheel, the loader has to find them."""
    wheel = importlib.util.find_spec(PACKAGE)
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        for library in LIBRARIES:
            with suppress(OSError):  # cuda.check_libraries names a missing library later
                ctypes.CDLL(str(Path(folder) / library), ctypes.RTLD_GLOBAL)


def options(*, pixels: str, size: tuple[int, int], buckets: Sequence[int], half: bool, cache: Path) -> dict[str, str]:
    """Return options to compile for every batch up to the largest, and to cache the result.

    The compiled network is optimized for the largest batch.

    Args:
        pixels: the name of the input.
        size: (height, width) of an image.
        buckets: batch sizes.
        half: whether the network computes in float16. A float32 network must not: the export
            verified float32.
        cache: an existing folder.
    """
    smallest, largest = (f"{pixels}:{count}x{size[0]}x{size[1]}x3" for count in (min(buckets), max(buckets)))
    return {
        "trt_profile_min_shapes": smallest,
        "trt_profile_opt_shapes": largest,
        "trt_profile_max_shapes": largest,
        "trt_fp16_enable": str(int(half)),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
    }


def cache_folder(model: Path, gpu: str, runtime: str, buckets: Sequence[int]) -> Path:
    """Return the folder for what is compiled for this model, GPU, runtime and largest batch.

    `runtime` is the version of ONNX Runtime. The folder is in `$XDG_CACHE_HOME`, or else in
    `~/.cache` (XDG Base Directory Specification). It is not created.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    largest = f"batches-of-{max(buckets)}"
    return Path(home) / "swin-serve" / "tensorrt" / "-".join([*gpu.split(), runtime, largest, file_digest(model)[:16]])
