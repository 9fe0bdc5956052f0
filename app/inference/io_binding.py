"""Batches on a GPU in memory that is allocated once.

Pixels are copied into this memory; logits and tokens are copied out of it. Knows no buckets.

A CUDA graph needs fixed memory: it records all kernels of a batch with their addresses and launches
them as one. Fixed memory also makes the use of GPU memory a plateau.

ONNX Runtime keeps a graph in storage of the thread that recorded it. So one thread runs all batches
of an engine, also those of its warm-up.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.inference import onnx_runtime

if TYPE_CHECKING:
    import onnxruntime

# The key in the options of a run. Each batch size has a graph of its own, which is numbered by the
# size.
GRAPH = "gpu_graph_id"


class Binding:
    """The memory of batches of one size on one session.

    Args:
        session: with one input.
        device: the name and index of the device, as ONNX Runtime has them.
        size: images in a batch.
    """

    def __init__(self, session: "onnxruntime.InferenceSession", device: tuple[str, int], size: int) -> None:
        self._session, self._binding = session, session.io_binding()
        (pixels,) = session.get_inputs()
        self._pixels = _allocate((size, *pixels.shape[1:]), np.uint8, device)
        self._binding.bind_ortvalue_input(pixels.name, self._pixels)
        self._outputs = dict[str, Any]()
        # Bind every output, also those that are seldom fetched: a graph is recorded once.
        for value in session.get_outputs():
            self._outputs[value.name] = _allocate((size, *value.shape[1:]), np.float32, device)
            self._binding.bind_ortvalue_output(value.name, self._outputs[value.name])
        self._options = onnx_runtime.load().RunOptions()
        self._options.add_run_config_entry(GRAPH, str(size))

    def run(self, names: Sequence[str], pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Run a batch, (size, height, width, 3); return copies of the outputs with these names."""
        self._pixels.update_inplace(pixels)
        self._session.run_with_iobinding(self._binding, self._options)
        # On some devices, numpy() is a view of the bound memory, which the next batch overwrites.
        return [self._outputs[name].numpy().copy() for name in names]


class Bindings:
    """The bindings of several batch sizes on one session, and the thread that runs the batches.

    The memory of a size is allocated when a batch of this size is run for the first time.
    """

    def __init__(self, session: "onnxruntime.InferenceSession", device: tuple[str, int]) -> None:
        self._session, self._device = session, device
        self._by_size = dict[int, Binding]()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine-gpu")

    def run(self, names: Sequence[str], pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Run a batch, (size, height, width, 3), and return the outputs with these names.

        Raises:
            Exception: any error of ONNX Runtime. Its errors share no class of their own.
        """
        return self._thread.submit(self._run, names, pixels).result()

    def keep(self, sizes: Collection[int]) -> None:
        """Free the memory of all other sizes."""
        self._by_size = {size: binding for size, binding in self._by_size.items() if size in sizes}

    def close(self) -> None:
        """Free the memory and end the thread after the run in progress.

        Do not wait for this run: it may never end.
        """
        self._thread.submit(self.keep, ())
        self._thread.shutdown(wait=False)

    def _run(self, names: Sequence[str], pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        size = len(pixels)
        if size not in self._by_size:
            self._by_size[size] = Binding(self._session, self._device, size)
        return self._by_size[size].run(names, pixels)


def _allocate(shape: tuple[int, ...], dtype: type[np.generic], device: tuple[str, int]) -> Any:
    return onnx_runtime.load().OrtValue.ortvalue_from_shape_and_type(shape, dtype, *device)
