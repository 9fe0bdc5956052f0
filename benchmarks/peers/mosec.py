# /// script
# dependencies = ["mosec==0.9.8", "onnxruntime==1.31.1", "numpy==2.4.6", "pillow==13.0.0"]
# ///
"""mosec: a server in Rust before two kinds of Python processes, of which the second gets batches."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from mosec import Server, Worker
from numpy.typing import NDArray

from benchmarks.peers.network import CPUS, MAX_BATCH, PORT, Network, Recipe


class Read(Worker):
    """Bytes → pixels; as bytes, which are a quarter of floats to hand on."""

    def __init__(self) -> None:
        self.recipe = Recipe()

    def deserialize(self, data: bytes) -> bytes:
        """The body is the image."""
        return data

    def forward(self, data: bytes) -> NDArray[np.uint8]:
        """One image."""
        return self.recipe.read(data)


class Classify(Worker):
    """Pixels → answers, which are JSON by mosec's own default."""

    def __init__(self) -> None:
        self.network = Network()

    def forward(self, data: Sequence[NDArray[np.uint8]]) -> Any:
        """A batch, as many as there are up to the largest."""
        return self.network.classify(data)


if __name__ == "__main__":
    sys.argv += ["--port", str(PORT), "--address", "127.0.0.1", "--log-level", "warning"]
    server = Server()
    server.append_worker(Read, num=CPUS, route="/classify")
    server.append_worker(Classify, max_batch_size=MAX_BATCH, max_wait_time=1, route="/classify")
    server.run()
