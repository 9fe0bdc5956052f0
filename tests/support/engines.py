"""Fake engines and sessions: some wait at a gate, some fail. Knows no torch."""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.bundle.load import Bundle
from app.inference.cuda import Gpu
from app.inference.engine import Engine
from app.inference.self_test import open_unverified
from app.system.device import CPU, Device
from tests.support.waiting import HANG_SECONDS


class Gate:
    """An engine that runs a batch only after `open`, and adds one to every row."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.return_tokens: list[list[bool]] = []  # of each batch
        self._entered, self._opened = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, rows: Sequence[NDArray[Any]], return_tokens: Sequence[bool] = ()) -> NDArray[Any]:
        """Run a batch."""
        self.batches.append(len(rows))
        self.return_tokens.append(list(return_tokens))
        self._entered.release()
        assert self._opened.acquire(timeout=HANG_SECONDS), "the gate was not opened"
        return np.stack(rows) + 1

    def wait_until_entered(self) -> None:
        """Wait until a batch has reached the gate."""
        assert self._entered.acquire(timeout=HANG_SECONDS), "no batch came"

    def open(self, times: int = 1) -> None:
        """Let `times` batches through."""
        self._opened.release(times)


# The error of ONNX Runtime when the memory of a GPU is full.
ALLOCATION = "FAIL : bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 3687936"

# A GPU with all libraries, and a driver of unknown version.
GPU = Gpu("NVIDIA H200", None, "13.1", "13.0", "9.10.2")


class FailingSession:
    """A session of ONNX Runtime with a failure: `exception`, `shape` or `nan`."""

    def __init__(self, session: Any, failure: str) -> None:
        self._session, self._failure = session, failure

    def run(self, outputs: list[str], inputs: dict[str, NDArray[Any]]) -> Any:
        """Fail."""
        if self._failure == "exception":
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        values = self._session.run(outputs, inputs)
        if self._failure == "shape":
            return [value[:, :-1] for value in values]
        return [np.full_like(value, np.nan) for value in values]


class HeldSession:
    """A session of ONNX Runtime in which every run waits at a gate."""

    def __init__(self, session: Any, gate: Gate) -> None:
        self._session, self._gate = session, gate

    def run(self, outputs: list[str], inputs: dict[str, NDArray[Any]]) -> Any:
        """Wait, then run."""
        self._gate([np.zeros(1)] * len(*inputs.values()))
        return self._session.run(outputs, inputs)


def engine_of(bundle: Bundle, device: Device = CPU, buckets: Sequence[int] = (1,)) -> Engine:
    """Open the bundle's network on a device, without self-test and warm-up."""
    return open_unverified(bundle, device, 1, buckets)


def rows(values: Iterable[float]) -> list[NDArray[np.float32]]:
    """Return one row for each value."""
    return [np.array([value], np.float32) for value in values]
