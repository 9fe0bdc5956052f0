"""A pause of garbage collection while this process measures.

A collection stops all clients for tens of milliseconds.
"""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Collect garbage now, and not again before the end of the block. An inner block does nothing."""
    if not gc.isenabled():
        yield
        return
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
