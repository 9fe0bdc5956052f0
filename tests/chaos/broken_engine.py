"""`swin-serve` with fault injection.

`python -m tests.chaos.broken_engine run …` replaces `python -m app run …`. The environment variable
BROKEN_ENGINE names a file. A fault is injected by writing the name of one of `FAULTS` into it, for
`hang` followed by a number of seconds, and for `hold` by the path of a named pipe. The next run of
two images or more removes the file and fails once. SIGUSR1 collects garbage and returns free memory
to the kernel.
"""

import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from app.cli.main import main
from app.inference import session, warmup

VARIABLE = "BROKEN_ENGINE"

Outputs = list[np.ndarray[Any, Any]]

# Set when a session is opened: by then, a run that hangs has timed out.
replaced = threading.Event()


def fail(_: Outputs) -> Outputs:
    """Raise, as ONNX Runtime does when it runs out of memory."""
    raise RuntimeError("an injected failure")


def drop_row(outputs: Outputs) -> Outputs:
    """Return one row too few."""
    return [values[1:] for values in outputs]


def fill_with_nan(outputs: Outputs) -> Outputs:
    """Return NaN for all values."""
    return [np.full_like(values, np.nan) for values in outputs]


def shift_rows(outputs: Outputs) -> Outputs:
    """Return to each image the output of its neighbor, which only the clients can notice."""
    return [np.roll(values, 1, axis=0) for values in outputs]


def hang(outputs: Outputs, seconds: str) -> Outputs:
    """Return the right outputs too late: after an engine restart, or after so many seconds."""
    replaced.clear()
    replaced.wait(float(seconds))
    return outputs


def hold(outputs: Outputs, pipe: str) -> Outputs:
    """Return the right outputs when a test opens the named pipe to write."""
    Path(pipe).open(encoding="ascii").close()
    return outputs


FAULTS: Mapping[str, Callable[..., Outputs]] = {
    "raise": fail,
    "rows": drop_row,
    "nan": fill_with_nan,
    "cross": shift_rows,
    "hang": hang,
    "hold": hold,
}


class FaultySession:
    """A session of ONNX Runtime into which faults can be injected."""

    def __init__(self, session: Any, fault_file: Path) -> None:
        self._session, self._fault_file = session, fault_file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *arguments: Any) -> Outputs:
        """Run, and apply the injected fault if there is one."""
        outputs: Outputs = self._session.run(*arguments)
        if len(outputs[0]) < 2 or not self._fault_file.exists():
            return outputs
        fault, *details = self._fault_file.read_text().split()
        self._fault_file.unlink()
        return FAULTS[fault](outputs, *details)


def inject(fault: str, fault_file: Path) -> None:
    """Write the fault in one step, so that the service never reads a part of it."""
    draft = fault_file.with_suffix(".draft")
    draft.write_text(fault)
    draft.rename(fault_file)


def free_memory(*_: object) -> None:
    """Free all unused memory, so that the memory of the process is what it needs."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, free_memory)
    # On a busy machine, warm-up could find that batches save no time. Then no batch would have the
    # two images that a fault needs.
    warmup.MIN_SAVING = -1e6
    open_session, fault_file = session._open, Path(os.environ[VARIABLE])  # noqa: SLF001 (opens every session)

    def open_faulty_session(*arguments: Any) -> FaultySession:
        """Open a faulty session, and let a run return that hangs in the session before."""
        replaced.set()
        return FaultySession(open_session(*arguments), fault_file)

    session._open = open_faulty_session  # type: ignore[assignment]  # noqa: SLF001 (opens every session)
    sys.exit(main())
