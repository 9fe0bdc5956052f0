# /// script
# dependencies = ["ray[serve]==2.60.0", "onnxruntime==1.31.1", "numpy==2.4.6", "pillow==13.0.0"]
# ///
"""Ray Serve: a proxy in front of one replica that decodes in threads and forms batches."""

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve
from starlette.requests import Request

from benchmarks.comparison.baselines.network import CPUS, MAX_BATCH, PORT, Network, Recipe

QUIET = {"enable_access_log": False}


class Classify:
    """The only replica, with all threads: two would be two copies of the network."""

    def __init__(self) -> None:
        self.recipe, self.network = Recipe(), Network()

    async def __call__(self, request: Request) -> Any:
        """Return the predictions of the image in the request body."""
        pixels = await asyncio.to_thread(self.recipe.read, await request.body())
        return await self.run(pixels)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.001)
    async def run(self, pixels: Sequence[NDArray[np.uint8]]) -> Any:
        """Return the predictions of a batch."""
        return await asyncio.to_thread(self.network.classify, pixels)


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(include_dashboard=False, configure_logging=False, num_cpus=CPUS)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT}, logging_config=QUIET)
    options = {"max_ongoing_requests": 64, "ray_actor_options": {"num_cpus": CPUS - 1}, "logging_config": QUIET}
    serve.run(serve.deployment(**options)(Classify).bind(), route_prefix="/classify")
    signal.pause()
