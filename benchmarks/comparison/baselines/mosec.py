# /// script
# dependencies = ["mosec==0.9.8", "onnxruntime==1.31.1", "numpy==2.4.6", "pillow==13.0.0"]
# ///
"""mosec: a server in Rust that sends batches to worker processes."""

import sys
from collections.abc import Sequence
from typing import Any

from mosec import Server, Worker

from benchmarks.comparison.baselines.network import CPUS, MAX_BATCH, PORT, Network, Recipe


class Classify(Worker):
    """One worker for each core. It decodes images and runs the network."""

    def __init__(self) -> None:
        self.recipe, self.network = Recipe(), Network(threads=1)

    def deserialize(self, data: bytes) -> bytes:
        """Return the request body: it is the image."""
        return data

    def forward(self, data: Sequence[bytes]) -> Any:
        """Return the predictions of a batch."""
        return self.network.classify([self.recipe.read(each) for each in data])


if __name__ == "__main__":
    sys.argv += ["--port", str(PORT), "--address", "127.0.0.1", "--log-level", "warning", "--timeout", "60000"]
    server = Server()
    server.append_worker(Classify, num=CPUS, max_batch_size=MAX_BATCH, max_wait_time=1, route="/classify")
    server.run()
