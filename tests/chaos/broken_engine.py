"""`swin-serve`, whose engine misbehaves on demand.

`python -m tests.chaos.broken_engine run …`, in the place of `-m app`.

An order is a file, named by the variable BROKEN_ENGINE, with one of `ORDERS` in it, and for `hang` the most seconds.
The next run of two rows or more carries it out, once, and takes the file away. SIGUSR1 collects garbage and gives what
was freed back to the system.
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

replaced = threading.Event()
"""Set when a session is opened: a run that hangs has been given up by then."""


def fail(_: Outputs) -> Outputs:
    """As ONNX Runtime does when memory runs out."""
    raise RuntimeError("an injected failure")


def lose_a_row(outputs: Outputs) -> Outputs:
    """One answer too few."""
    return [values[1:] for values in outputs]


def spoil(outputs: Outputs) -> Outputs:
    """Numbers that are none."""
    return [np.full_like(values, np.nan) for values in outputs]


def cross(outputs: Outputs) -> Outputs:
    """To each row its neighbor's answer: what nobody but the callers can notice."""
    return [np.roll(values, 1, axis=0) for values in outputs]


def hang(outputs: Outputs, seconds: str) -> Outputs:
    """Return the right answer too late: when the engine has been renewed, or after so many seconds."""
    replaced.clear()
    replaced.wait(float(seconds))
    return outputs


ORDERS: Mapping[str, Callable[..., Outputs]] = {
    "raise": fail,
    "rows": lose_a_row,
    "nan": spoil,
    "cross": cross,
    "hang": hang,
}


class BrokenSession:
    """A session of ONNX Runtime that takes orders."""

    def __init__(self, session: Any, order: Path) -> None:
        self._session, self._order = session, order

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *arguments: Any) -> Outputs:
        """Run, and carry out the order if there is one."""
        outputs: Outputs = self._session.run(*arguments)
        if len(outputs[0]) < 2 or not self._order.exists():
            return outputs
        order, *details = self._order.read_text().split()
        self._order.unlink()
        return ORDERS[order](outputs, *details)


def give(order: str, place: Path) -> None:
    """Leave an order, complete from the first moment on."""
    draft = place.with_suffix(".draft")
    draft.write_text(order)
    draft.rename(place)


def tidy_up(*_: object) -> None:
    """Keep what is in use and nothing else: what the process occupies now is what it holds."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, tidy_up)
    # Warm-up on a busy machine can find that batches do not pay. Then none would have the two rows that an order needs.
    warmup.MIN_SAVING = -1e6
    open_session, place = session._open, Path(os.environ[VARIABLE])  # noqa: SLF001 (every session is opened there)

    def open_broken(*arguments: Any) -> BrokenSession:
        """Open a session that takes orders, and let go of a run that hangs in the one before."""
        replaced.set()
        return BrokenSession(open_session(*arguments), place)

    session._open = open_broken  # type: ignore[assignment]  # noqa: SLF001 (likewise)
    sys.exit(main())
