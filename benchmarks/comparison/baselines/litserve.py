# /// script
# dependencies = ["litserve==0.2.19", "onnxruntime==1.31.1", "numpy==2.4.6", "pillow==13.0.0"]
# ///
"""LitServe: FastAPI in front of worker processes that form batches.

Images are base64: it accepts no raw body.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison.baselines.network import CPUS, MAX_BATCH, PORT, Network, Recipe


class Classify(litserve.LitAPI):
    """One worker for each core. It decodes images and runs the network."""

    def setup(self, device: str) -> None:  # noqa: ARG002 (the CPU is the only device)
        """Load the network at the start of the worker."""
        self.recipe, self.network = Recipe(), Network(threads=1)

    def decode_request(self, request: Mapping[str, str]) -> NDArray[np.uint8]:
        """Return the pixels of an image, (height, width, 3)."""
        return self.recipe.read(base64.b64decode(request["image"]))

    def batch(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """Return the images as a list: the network stacks them."""
        return inputs

    def predict(self, x: Sequence[NDArray[np.uint8]]) -> Any:
        """Return the predictions of a batch."""
        return self.network.classify(x)

    def unbatch(self, output: Any) -> Any:
        """Return the predictions: one element per image."""
        return output


if __name__ == "__main__":
    api = Classify(max_batch_size=MAX_BATCH, batch_timeout=0.001, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=CPUS)
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False)
