# /// script
# dependencies = ["nvidia-pytriton==0.7.0", "onnxruntime==1.31.1", "pillow==13.0.0"]
# ///
"""PyTriton: NVIDIA's Triton Inference Server before Python functions, to which it hands batches."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.network import CPUS, MAX_BATCH, PORT, Network, Recipe

recipe, network = Recipe(), Network()


@batch
def classify(image: NDArray[np.object_]) -> dict[str, Any]:
    """(n, 1) encoded images → (n, 1) answers."""
    answers = network.classify([recipe.read(data) for (data,) in image])
    return {"answer": np.array([[json.dumps(answer).encode()] for answer in answers])}


if __name__ == "__main__":
    ports = TritonConfig(
        http_address="127.0.0.1", http_port=PORT, grpc_port=PORT + 1, metrics_port=PORT + 2, allow_grpc=False
    )
    with Triton(config=ports) as triton:
        triton.bind(
            model_name="swin",
            infer_func=[classify] * CPUS,
            inputs=[Tensor(name="image", dtype=bytes, shape=(1,))],
            outputs=[Tensor(name="answer", dtype=bytes, shape=(1,))],
            config=ModelConfig(max_batch_size=MAX_BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=1000)),
        )
        triton.serve()
