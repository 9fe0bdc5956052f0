"""A service with a main thread that never returns: `app.tuning.child` runs it in the place of `app`."""

import sys
import threading

print("stuck", flush=True)  # noqa: T201 (the test waits for it)
threading.Event().wait()
sys.exit(3)
