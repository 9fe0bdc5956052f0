"""A batch of pixels in, logits (and tokens) out, by ONNX Runtime, on a device that was proved (`session.py`)."""

import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import DeviceError, sentence
from app.inference import cuda
from app.inference.io_binding import Bindings
from app.inference.onnx_runtime import onnxruntime
from app.inference.session import INPUT, OUTPUT, TOKENS, DeviceReport, Network, is_out_of_memory, open_session
from app.model_output import ModelOutput
from app.system.device import CPU, Device

log = logging.getLogger("swin.start")

ON_GPU = "cuda"  # where memory of a GPU is, whatever runs there

MEASUREMENTS, SHORT_SECONDS, LONG_SECONDS = 4, 0.01, 0.5
"""Runs of a bucket at warm-up; more of those that take no time, and after so long one is enough."""

MIN_SAVING, BATCH_SECONDS = 0.03, 0.0002
"""The part of an image's cost that a bucket has to save beside the one before it, to be worth the wait; and what a
batch costs the service beside its run, on its way to the engine's thread and back."""

Pixels = NDArray[np.uint8]  # batch, height, width, 3
Images = Pixels | Sequence[NDArray[np.uint8]]  # the same, or one by one
Logits = NDArray[np.float32]  # batch, classes
Tokens = NDArray[np.float32]  # batch, positions, channels


class Engine:
    """One session on one device, warm for batches of some sizes, its buckets; runs one batch at a time.

    With `bindings`, on a GPU, batches are run in memory that stays where it is, and their pixels come from memory that
    the GPU reads by itself.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
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
        new = cuda.page_locked if bindings else np.zeros
        self._batch: Pixels = new((self.buckets[-1], *self.image_shape), np.uint8)  # where rows are copied to

    def sibling(self) -> "Engine":
        """Another engine on the same session, as warm: they share the weights and run batches side by side."""
        sibling = Engine(self._session, self.device_report, self.buckets)
        sibling.bucket_seconds = self.bucket_seconds
        return sibling

    def close(self) -> None:
        """Let its thread end, if it has one of its own. Another run is an error."""
        if self._bindings:
            self._bindings.close()

    def shares_session(self, other: "Engine") -> bool:
        """Whether the other one runs on the same session."""
        return self._session is other._session  # noqa: SLF001 (another of our own)

    @property
    def image_seconds(self) -> float:
        """What an image takes in the batches that suit this engine best, as measured at warm-up."""
        return min(seconds / size for size, seconds in self.bucket_seconds.items())

    def run(self, pixels: Images) -> Logits:
        """(n, height, width, 3) → (n, classes), for n up to the largest bucket.

        Raises:
            ValueError: what came out is of another shape, or not finite.
            Exception: whatever ONNX Runtime raises; its errors share no class of their own.
        """
        (logits,) = self._run([OUTPUT], pixels)
        return logits

    def run_with_tokens(self, pixels: Images) -> tuple[Logits, Tokens]:
        """(n, height, width, 3) → (n, classes) and what the head takes the mean of, (n, positions, channels)."""
        logits, tokens = self._run([OUTPUT, TOKENS], pixels)
        return logits, tokens

    def answer(self, images: Images, return_tokens: Sequence[bool]) -> list[ModelOutput]:
        """An output for each image, (height, width, 3), with tokens for those that ask."""
        if not any(return_tokens):  # tokens are not even fetched
            return [ModelOutput(logits, None) for logits in self.run(images)]
        rows = zip(*self.run_with_tokens(images), return_tokens, strict=True)
        return [ModelOutput(logits, tokens if wanted else None) for logits, tokens, wanted in rows]

    def _run(self, names: list[str], images: Images) -> list[NDArray[np.float32]]:
        size, bucket = len(images), self.bucket(len(images))
        np.stack(tuple(images), out=self._batch[:size])
        self._batch[size:bucket] = 0  # what stands there can change an answer: int8 has one scale for the batch
        outputs = zip(names, self._outputs(names, self._batch[:bucket]), strict=True)
        return [self._checked(name, values, size, bucket) for name, values in outputs]

    def _outputs(self, names: list[str], pixels: Pixels) -> list[NDArray[np.float32]]:
        if self._bindings:
            return self._bindings.run(names, pixels)
        outputs: list[NDArray[np.float32]] = self._session.run(names, {INPUT: pixels})
        return outputs

    def _checked(self, name: str, values: NDArray[np.float32], size: int, bucket: int) -> NDArray[np.float32]:
        wanted = (bucket, *self._output_shapes[name])
        if values.shape != wanted:
            raise ValueError(f"{self.device_report.device} gave {name} of shape {values.shape}, not {wanted}")
        values = values[:size]
        if not np.isfinite(values).all():
            raise ValueError(f"{self.device_report.device} gave {name} that are not finite")
        return values

    def bucket(self, size: int) -> int:
        """The batch size that a batch of this size is run as: padded to one that is warm, but on the CPU as it is.

        There every image takes its time, the empty ones too: batches of 5 would take that of 8.
        """
        return size if self.device_report.device.kind == "cpu" else self._warm(size)

    def expected_seconds(self, size: int) -> float:
        """What a batch of this size takes, by what was measured at warm-up; 0 before."""
        warm = self._warm(size)
        return self.bucket_seconds.get(warm, 0.0) * self.bucket(size) / warm

    def _warm(self, size: int) -> int:
        return next(bucket for bucket in self.buckets if bucket >= size)

    def report(self) -> dict[str, Any]:
        """The device as the session reports it, and the milliseconds each bucket took at warm-up."""
        buckets = [
            {"batch": size, "milliseconds": round(seconds * 1e3, 3)} for size, seconds in self.bucket_seconds.items()
        ]
        return {**asdict(self.device_report), "device": str(self.device_report.device), "buckets": buckets}

    def warm_up(self, *, while_cheaper: bool = False) -> None:
        """Run every bucket: to pay for allocation and kernel choice, and to know what to expect.

        `while_cheaper`, only up to the first that makes an image no cheaper: it and those after it are given up, as
        they would cost memory and waiting for nothing.

        Raises:
            DeviceError: a bucket cannot be run here.
        """
        for before, bucket in itertools.pairwise((0, *self.buckets)):
            seconds = self._measured(bucket)
            if while_cheaper and before and not _is_cheaper(bucket, seconds, before, self.bucket_seconds[before]):
                self._give_up_after(before)
                return
            self.bucket_seconds[bucket] = seconds

    def _give_up_after(self, bucket: int) -> None:
        self.buckets = self.buckets[: self.buckets.index(bucket) + 1]
        if self._bindings:
            self._bindings.keep(self.buckets)

    def _measured(self, bucket: int) -> float:
        """The least of some runs: the first is slow, and others may use this machine at the same time."""
        least = (
            1 if self.device_report.device.kind == "cpu" else 2
        )  # elsewhere, a first run looks for kernels and records them
        pixels = np.zeros((bucket, *self.image_shape), np.uint8)
        seconds = list[float]()
        while (
            len(seconds) < least
            or sum(seconds) < SHORT_SECONDS
            or (len(seconds) < MEASUREMENTS and sum(seconds) < LONG_SECONDS)
        ):
            seconds.append(self._timed(pixels))
        return min(seconds)

    def self_test(self, pixels: Pixels, expected: Logits, tolerance: float, size: int = 1) -> None:
        """Check known answers on this device, in batches of this size; of more rows than there are, some come again.

        Raises:
            DeviceError: a logit differs by more than `tolerance`, or the batch cannot be run.
        """
        for first in range(0, len(pixels), size):
            rows = np.arange(first, first + size) % len(pixels)
            differences = np.abs(self._try(pixels[rows]) - expected[rows]).max(axis=1)
            for row, difference in zip(rows, differences, strict=True):
                if not difference <= tolerance:  # also catches NaN
                    where = f"{self.device_report.device} in a batch of {size}"
                    raise DeviceError(
                        f"golden sample {row} differs by {difference:.3g} on {where}; allowed: {tolerance:.3g}"
                    )

    def _timed(self, pixels: Pixels) -> float:
        started = time.perf_counter()
        self._try(pixels)
        return time.perf_counter() - started

    def _try(self, pixels: Pixels) -> Logits:
        try:
            return self.run(pixels)
        except Exception as error:  # ONNX Runtime's errors share no class of their own
            raise DeviceError(self._why_not(len(pixels), sentence(error))) from error

    def _why_not(self, size: int, said: str) -> str:
        device, gpu, bucket = self.device_report.device, self.device_report.gpu, self.bucket(size)
        if is_out_of_memory(said):
            cure = "lower max_batch" if bucket > 1 else "others use it too"
            return f"{device} is out of memory at batches of {bucket}: {cure} ({said})"
        if device.kind == "cuda" and gpu and gpu.cudnn is None:  # opened by the first kernel that calls it, not before
            cure = "cuDNN is not loaded, pip install 'swin-serve[gpu]' brings it"
            return f"{device} cannot run a batch of {bucket}: {cure} ({said})"
        without = ", perhaps not as a CUDA graph: try cuda_graphs off" if self.device_report.graphs else ""
        return f"{device} cannot run a batch of {bucket}{without}: {said}"


def _is_cheaper(size: int, seconds: float, before: int, seconds_before: float) -> bool:
    """Whether an image costs less in batches of this size than in those of the size before."""
    cost, cost_before = (seconds + BATCH_SECONDS) / size, (seconds_before + BATCH_SECONDS) / before
    return cost < (1 - MIN_SAVING) * cost_before


def open_engine(
    network: Network, device: Device, *, threads: int, buckets: Sequence[int], graphs: bool = True
) -> Engine:
    """Open the network on the device. Not warm yet.

    Args:
        network: the model, and what it has to be.
        device: where it has to run.
        threads: for one batch on the CPU.
        buckets: the batch sizes it will be run with.
        graphs: launch the kernels of a batch as one, with CUDA.

    Raises:
        DeviceError: the device is not there, or the network would not run on it.
        BundleError: the model's input and outputs are not those of the contract.
    """
    graphs = graphs and device.kind == "cuda"
    session, device_report = open_session(network, device, threads=threads, buckets=buckets, graphs=graphs)
    bindings = None if device == CPU else Bindings(session, (ON_GPU, device.index))
    return Engine(session, device_report, buckets, bindings)
