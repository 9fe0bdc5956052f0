"""TensorRT: NVIDIA's compiler, which makes of the network what one GPU runs best, in minutes; kept for the next start.

Options are ONNX Runtime's for its provider, as documented for it.
"""

import ctypes
import importlib.util
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from app.bundle.digests import file_digest

LIBRARIES = ("libnvinfer.so.10", "libnvonnxparser.so.10")
PACKAGE = "tensorrt_libs"  # what of NVIDIA's wheels has them, where no loader looks


def load() -> None:
    """The libraries from their wheel, if that is installed; else they are the loader's to find."""
    wheel = importlib.util.find_spec(PACKAGE)
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        for library in LIBRARIES:
            with suppress(OSError):  # what is missing is named when the provider is loaded
                ctypes.CDLL(str(Path(folder) / library), ctypes.RTLD_GLOBAL)


def options(*, pixels: str, size: tuple[int, int], buckets: Sequence[int], half: bool, cache: Path) -> dict[str, str]:
    """To compile for every batch up to the largest, best for that one, and to keep what was made and measured.

    Args:
        pixels: the name of the input.
        size: (height, width) of an image.
        buckets: batch sizes.
        half: whether the network computes in float16. In float32 it must not, or it would no longer be what was proved.
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
    """Where what was compiled of this model lies: of no use to another GPU, another ONNX Runtime or other batches.

    In `$XDG_CACHE_HOME`, else `~/.cache` (XDG Base Directory Specification). Not made here.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    largest = f"batches-of-{max(buckets)}"
    return Path(home) / "swin-serve" / "tensorrt" / "-".join([*gpu.split(), runtime, largest, file_digest(model)[:16]])
