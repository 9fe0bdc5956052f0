"""Batches on a GPU in memory that is taken once: pixels go there, logits and tokens come back, always the same way.

That is what a CUDA graph asks for, in which all kernels of a batch are recorded with their addresses and launched as
one, and what makes the memory a plateau. The graph belongs to the thread that recorded it, as ONNX Runtime keeps them
with all that is a thread's own; so one thread runs all batches of an engine, those of its warm-up too.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.inference.onnx_runtime import onnxruntime

GRAPH = "gpu_graph_id"
"""The key of a run's options; each size of batch has a graph of its own."""


class Binding:
    """Batches of one size on one session.

    Args:
        session: with one input.
        place: the device's name and index, as ONNX Runtime has them.
        size: images in a batch.
    """

    def __init__(self, session: onnxruntime.InferenceSession, place: tuple[str, int], size: int) -> None:
        self._session, self._binding = session, session.io_binding()
        (pixels,) = session.get_inputs()
        self._pixels = _taken((size, *pixels.shape[1:]), np.uint8, place)
        self._binding.bind_ortvalue_input(pixels.name, self._pixels)
        self._outputs = dict[str, onnxruntime.OrtValue]()
        for value in session.get_outputs():  # all of them, though only some are fetched: a graph is recorded once
            self._outputs[value.name] = _taken((size, *value.shape[1:]), np.float32, place)
            self._binding.bind_ortvalue_output(value.name, self._outputs[value.name])
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry(GRAPH, str(size))

    def run(self, names: Sequence[str], pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """A full batch, (size, height, width, 3) → the outputs of these names; others stay where they are."""
        self._pixels.update_inplace(pixels)
        self._session.run_with_iobinding(self._binding, self._options)
        return [self._outputs[name].numpy().copy() for name in names]  # on some devices it is the memory itself


class Bindings:
    """Batches of several sizes on one session, one at a time. A size's memory is taken when it is first run."""

    def __init__(self, session: onnxruntime.InferenceSession, place: tuple[str, int]) -> None:
        self._session, self._place = session, place
        self._by_size = dict[int, Binding]()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine-gpu")

    def run(self, names: Sequence[str], pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """(size, height, width, 3) → the outputs of these names. Raises whatever ONNX Runtime raises."""
        return self._thread.submit(self._run, names, pixels).result()

    def keep(self, sizes: Collection[int]) -> None:
        """Give back what the others take."""
        self._by_size = {size: binding for size, binding in self._by_size.items() if size in sizes}

    def close(self) -> None:
        """Let the thread end after what it was given, and give back the memory. Do not wait for a run that is stuck."""
        self._thread.submit(self.keep, ())
        self._thread.shutdown(wait=False)

    def _run(self, names: Sequence[str], pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        size = len(pixels)
        if size not in self._by_size:
            self._by_size[size] = Binding(self._session, self._place, size)
        return self._by_size[size].run(names, pixels)


def _taken(shape: tuple[int, ...], kind: type[np.generic], place: tuple[str, int]) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, *place)
