"""The service as a child process: `python -m app.tuning.child OPTIONS`. It ends when its standard input closes.

The kernel closes the other end of the pipe when the tuner ends, however it ends. So no service outlives it, on any
system. The service itself knows nothing of this.
"""

import contextlib
import os
import runpy
import signal
import threading

from app.system.process_exit import exit_now
from app.system.processes import process_tree

# The module that is run.
SERVICE = "app"

# The exit code after the end of the tuner.
ORPHANED = 1


def main() -> None:
    """Run `swin-serve` with the arguments of this process."""
    threading.Thread(target=_end_with_input, name="input", daemon=True).start()
    runpy.run_module(SERVICE, run_name="__main__", alter_sys=True)


def _end_with_input() -> None:
    """Wait until standard input closes, then end the process and its HTTP workers.

    In a thread, so that an event loop that is stuck changes nothing. HTTP workers exit with their parent, but one
    that is stuck would not.
    """
    while os.read(0, 1024):
        pass
    with contextlib.suppress(OSError):  # /proc cannot be read
        _kill_descendants()
    exit_now(ORPHANED)


def _kill_descendants() -> None:
    _, *descendants = process_tree(os.getpid())
    for pid in descendants:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
