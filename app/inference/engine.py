"""An engine: a batch of pixels in, logits and tokens out, on a device that was verified.

Pads batches to the sizes that it is warm for, checks what comes out, and runs known images as a
self-test. Knows no queue; `session.py` opens and verifies the session.
"""

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from app.errors import DeviceError, sentence
from app.inference import cuda
from app.inference.io_binding import Bindings
from app.inference.session import INPUT, OUTPUT, TOKENS, DeviceReport, Network, is_out_of_memory, open_session
from app.inference.warmup import measure_buckets
from app.model_output import ModelOutput
from app.system.device import CPU, Device

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger("swin.start")

# ONNX Runtime's name for the memory of an NVIDIA GPU, whichever provider runs there.
GPU_MEMORY = "cuda"

# uint8, (batch, height, width, 3).
Pixels = NDArray[np.uint8]

# The same, or the images one by one.
Images = Pixels | Sequence[NDArray[np.uint8]]

# float32, (batch, classes).
Logits = NDArray[np.float32]

# float32, (batch, positions, channels).
Tokens = NDArray[np.float32]


class Engine:
    """One session on one device, warm for batches of some sizes, its buckets.

    An engine runs one batch at a time. With `bindings`, on a GPU, batches are run in memory with
    fixed addresses, and the GPU copies their pixels from page-locked memory.
    """

    def __init__(
        self,
        session: "onnxruntime.InferenceSession",
        device_report: DeviceReport,
        buckets: Sequence[int],
        bindings: Bindings | None = None,
    ) -> None:
        self.device_report = device_report
        self.buckets = tuple(sorted(buckets))
        self.bucket_seconds: dict[int, float] = {}  # measured by warm_up
        self.image_shape = tuple(session.get_inputs()[0].shape[1:])  # height, width, 3
        self._output_shapes = {value.name: tuple(value.shape[1:]) for value in session.get_outputs()}
        self._session, self._bindings = session, bindings
        allocate = cuda.page_locked if bindings else np.zeros
        self._batch: Pixels = allocate((self.buckets[-1], *self.image_shape), np.uint8)  # images are copied here

    def sibling(self) -> "Engine":
        """Return another engine on the same session, as warm as this one.

        Both share the weights and run batches in parallel.
        """
        sibling = Engine(self._session, self.device_report, self.buckets)
        sibling.bucket_seconds = self.bucket_seconds
        return sibling

    def close(self) -> None:
        """End the thread of the bindings, if there are any. No batch may be run after."""
        if self._bindings:
            self._bindings.close()

    def shares_session(self, other: "Engine") -> bool:
        """Return whether the other engine runs on the same session."""
        return self._session is other._session  # noqa: SLF001 (another Engine)

    @property
    def image_seconds(self) -> float:
        """The seconds per image in batches of the best bucket, as measured at warm-up."""
        return min(seconds / size for size, seconds in self.bucket_seconds.items())

    def run(self, pixels: Images) -> Logits:
        """Return the logits (n, classes) of n images, up to the largest bucket.

        Raises:
            ValueError: the logits have another shape, or are not finite.
            Exception: any error of ONNX Runtime. Its errors share no class of their own.
        """
        (logits,) = self._run([OUTPUT], pixels)
        return logits

    def run_with_tokens(self, pixels: Images) -> tuple[Logits, Tokens]:
        """Return the logits (n, classes) and the tokens (n, positions, channels) of n images.

        The head of the network takes the mean of the tokens. Raises as `run` does.
        """
        logits, tokens = self._run([OUTPUT, TOKENS], pixels)
        return logits, tokens

    def answer(self, images: Images, return_tokens: Sequence[bool]) -> list[ModelOutput]:
        """Return an output for each image, with tokens where `return_tokens` is true."""
        if not any(return_tokens):  # do not even fetch tokens
            return [ModelOutput(logits, None) for logits in self.run(images)]
        rows = zip(*self.run_with_tokens(images), return_tokens, strict=True)
        return [ModelOutput(logits, tokens if wanted else None) for logits, tokens, wanted in rows]

    def _run(self, names: list[str], images: Images) -> list[NDArray[np.float32]]:
        size, bucket = len(images), self.bucket(len(images))
        np.stack(tuple(images), out=self._batch[:size])
        # Zero the padding: dynamic int8 uses one activation scale per batch, so stale rows would
        # change results.
        self._batch[size:bucket] = 0
        outputs = zip(names, self._outputs(names, self._batch[:bucket]), strict=True)
        return [self._checked(name, values, size, bucket) for name, values in outputs]

    def _outputs(self, names: list[str], pixels: Pixels) -> list[NDArray[np.float32]]:
        if self._bindings:
            return self._bindings.run(names, pixels)
        outputs: list[NDArray[np.float32]] = self._session.run(names, {INPUT: pixels})
        return outputs

    def _checked(self, name: str, values: NDArray[np.float32], size: int, bucket: int) -> NDArray[np.float32]:
        expected = (bucket, *self._output_shapes[name])
        if values.shape != expected:
            raise ValueError(f"{self.device_report.device} gave {name} of shape {values.shape}, not {expected}")
        values = values[:size]
        if not np.isfinite(values).all():
            raise ValueError(f"{self.device_report.device} gave {name} that are not finite")
        return values

    def bucket(self, size: int) -> int:
        """Return the size that a batch of `size` images is padded to: a bucket, except on the CPU.

        On the CPU, padding takes as long as images do: a batch of 5 would take the time of 8.
        """
        return size if self.device_report.device.kind == "cpu" else self._warm_bucket(size)

    def expected_seconds(self, size: int) -> float:
        """Return the seconds that a batch of `size` images should take; 0 before warm-up."""
        warm = self._warm_bucket(size)
        return self.bucket_seconds.get(warm, 0.0) * self.bucket(size) / warm

    def _warm_bucket(self, size: int) -> int:
        return next(bucket for bucket in self.buckets if bucket >= size)

    def report(self) -> dict[str, Any]:
        """Return the device report, and the milliseconds that each bucket took at warm-up."""
        buckets = [
            {"batch": size, "milliseconds": round(seconds * 1e3, 3)} for size, seconds in self.bucket_seconds.items()
        ]
        return {**asdict(self.device_report), "device": str(self.device_report.device), "buckets": buckets}

    def warm_up(self, *, while_cheaper: bool = False) -> None:
        """Run every bucket: allocate memory, choose kernels, and measure the time of a batch.

        With `while_cheaper`, keep the buckets only up to the first that makes an image no cheaper:
        see `warmup.py`.

        Raises:
            DeviceError: a bucket cannot be run on this device.
        """
        pixels = np.zeros((self.buckets[-1], *self.image_shape), np.uint8)
        # On a GPU, the first run of a size searches for kernels and records them; the second shows
        # the time.
        min_runs = 1 if self.device_report.device.kind == "cpu" else 2
        self.bucket_seconds = measure_buckets(
            self.buckets,
            lambda size: self._run_seconds(pixels[:size]),
            min_runs=min_runs,
            while_cheaper=while_cheaper,
        )
        if len(self.bucket_seconds) < len(self.buckets):
            self.keep(self.bucket_seconds)

    def keep(self, buckets: Collection[int]) -> None:
        """Free the memory of all other buckets. Batches are padded to the next of these."""
        self.buckets = tuple(sorted(buckets))
        if self._bindings:
            self._bindings.keep(self.buckets)

    def self_test(self, pixels: Pixels, expected: Logits, tolerance: float, size: int = 1) -> None:
        """Compare logits with those expected, in batches of `size` images.

        Images are repeated to fill the last batch.

        Raises:
            DeviceError: a logit differs by more than `tolerance`, or the batch cannot be run.
        """
        for first in range(0, len(pixels), size):
            rows = np.arange(first, first + size) % len(pixels)
            differences = np.abs(self._run_at_start(pixels[rows]) - expected[rows]).max(axis=1)
            for row, difference in zip(rows, differences, strict=True):
                if not difference <= tolerance:  # also catches NaN
                    where = f"{self.device_report.device} in a batch of {size}"
                    raise DeviceError(
                        f"golden sample {row} differs by {difference:.3g} on {where}; allowed: {tolerance:.3g}"
                    )

    def _run_seconds(self, pixels: Pixels) -> float:
        started = time.perf_counter()
        self._run_at_start(pixels)
        return time.perf_counter() - started

    def _run_at_start(self, pixels: Pixels) -> Logits:
        """Run a batch. While the engine is opened, any failure is one of the device."""
        try:
            return self.run(pixels)
        except Exception as error:  # ONNX Runtime's errors share no class of their own
            raise DeviceError(self._failure(len(pixels), sentence(error))) from error

    def _failure(self, size: int, message: str) -> str:
        device, gpu, bucket = self.device_report.device, self.device_report.gpu, self.bucket(size)
        if is_out_of_memory(message):
            cure = "lower max_batch" if bucket > 1 else "stop other programs that use it"
            return f"{device} is out of memory at batches of {bucket}: {cure} ({message})"
        # The first kernel that calls cuDNN loads it, so a session opens without it.
        if device.kind == "cuda" and gpu and gpu.cudnn is None:
            cure = "cuDNN is not loaded, pip install 'swin-serve[gpu]' brings it"
            return f"{device} cannot run a batch of {bucket}: {cure} ({message})"
        graph_hint = ", perhaps not as a CUDA graph: try cuda_graphs off" if self.device_report.graphs else ""
        return f"{device} cannot run a batch of {bucket}{graph_hint}: {message}"


def open_engine(
    network: Network, device: Device, *, threads: int, buckets: Sequence[int], graphs: bool = True
) -> Engine:
    """Open the network on the device. The engine is not warm yet.

    Args:
        network: the model, and the properties it must have.
        device: where the network must run.
        threads: threads for one batch on the CPU.
        buckets: the batch sizes that will be run.
        graphs: launch the kernels of a batch as one CUDA graph.

    Raises:
        DeviceError: the device is not there, or the network would not run on it.
        BundleError: the model's input and outputs are not those of the contract.
    """
    graphs = graphs and device.kind == "cuda"
    session, device_report = open_session(network, device, threads=threads, buckets=buckets, graphs=graphs)
    bindings = None if device == CPU else Bindings(session, (GPU_MEMORY, device.index))
    return Engine(session, device_report, buckets, bindings)
