# /// script
# dependencies = ["litserve==0.2.19", "onnxruntime==1.31.1", "numpy==2.4.6", "pillow==13.0.0"]
# ///
"""LitServe: FastAPI before worker processes that gather batches. Images come as base64: it takes no raw body."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison.baselines.network import CPUS, MAX_BATCH, PORT, Network, Recipe


class Classify(litserve.LitAPI):
    """One of as many workers as there are cores: each decodes and runs."""

    def setup(self, device: str) -> None:  # noqa: ARG002 (there is but one)
        """Once, in the worker."""
        self.recipe, self.network = Recipe(), Network(threads=1)

    def decode_request(self, request: Mapping[str, str]) -> NDArray[np.uint8]:
        """Bytes → pixels."""
        return self.recipe.read(base64.b64decode(request["image"]))

    def batch(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """Stay a list: the network stacks it."""
        return inputs

    def predict(self, x: Sequence[NDArray[np.uint8]]) -> Any:
        """A batch."""
        return self.network.classify(x)

    def unbatch(self, output: Any) -> Any:
        """An answer each."""
        return output


if __name__ == "__main__":
    api = Classify(max_batch_size=MAX_BATCH, batch_timeout=0.001, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=CPUS)
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False)
