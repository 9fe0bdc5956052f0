"""Stand-ins for engines and sessions: some wait to be let through, some fail. Knows no torch."""

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
    """An engine that runs a batch only when let through, and adds one to every row."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.return_tokens: list[list[bool]] = []  # by batch, which rows asked for the return_tokens answer
        self._entered, self._opened = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, rows: Sequence[NDArray[Any]], return_tokens: Sequence[bool] = ()) -> NDArray[Any]:
        """Run a batch."""
        self.batches.append(len(rows))
        self.return_tokens.append(list(return_tokens))
        self._entered.release()
        assert self._opened.acquire(timeout=HANG_SECONDS), "nobody opened the gate"
        return np.stack(rows) + 1

    def wait_until_entered(self) -> None:
        """Until a batch stands before the gate."""
        assert self._entered.acquire(timeout=HANG_SECONDS), "no batch came"

    def open(self, times: int = 1) -> None:
        """Let so many batches through."""
        self._opened.release(times)


ALLOCATION = "FAIL : bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 3687936"
"""What ONNX Runtime says when a GPU's memory is full."""


GPU = Gpu("NVIDIA H200", None, "13.1", "13.0", "9.10.2")
"""One that has all it needs, and a driver that does not tell its version."""


class FailingSession:
    """A session of ONNX Runtime that breaks in one of the ways in which they do."""

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
    """A session of ONNX Runtime whose every run has to pass a gate first."""

    def __init__(self, session: Any, gate: Gate) -> None:
        self._session, self._gate = session, gate

    def run(self, outputs: list[str], inputs: dict[str, NDArray[Any]]) -> Any:
        """Wait, then run."""
        self._gate([np.zeros(1)])
        return self._session.run(outputs, inputs)


def engine_of(bundle: Bundle, device: Device = CPU, buckets: Sequence[int] = (1,)) -> Engine:
    """The bundle's network on a device, not proved and not warm."""
    return open_unverified(bundle, device, 1, buckets)


def rows(values: Iterable[float]) -> list[NDArray[np.float32]]:
    """One row for each value."""
    return [np.array([value], np.float32) for value in values]
