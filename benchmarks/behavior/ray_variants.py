"""The deployment of `deploy/ray`, and variants of it that do the same work in other ways.

Workers of Ray import this module.
"""

import asyncio
import time
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from numpy.typing import NDArray
from ray import serve
from ray.serve import Application
from swin_serve_ray import Replica

from app import backend
from app.batching.admission import NEVER
from app.batching.batcher import Batcher
from app.batching.engine_worker import Run
from app.batching.thread_pool import ThreadPool
from app.batching.types import UNTRACED, InferenceResult
from app.classification.classifier import Classification
from app.local_model import open_model
from app.settings import Settings
from benchmarks.load.clients import timed_loop
from benchmarks.load.ray_cluster import ROOT

# Seconds that a batch of `serve.batch` waits to fill: its default, and none.
DEFAULT_WAIT, NO_WAIT = 0.01, 0.0

SETTINGS = Settings(device="cpu")
OPTIONS: dict[str, Any] = {
    "max_ongoing_requests": 64,
    "ray_actor_options": {"num_cpus": 1, "runtime_env": {"env_vars": {"PYTHONPATH": f"{ROOT}:{ROOT}/deploy/ray"}}},
}


class ServeBatcher(Batcher):
    """A batcher that leaves the batches to `serve.batch`: they form by size and time, and one runs at a time."""

    def __init__(self, engines: Sequence[Run], *, max_batch: int, **options: Any) -> None:
        super().__init__(engines, max_batch=max_batch, **options)
        self._call, self._pool = engines[0], ThreadPool("engine", 1)
        self.run_batch.set_max_batch_size(max_batch)

    async def submit(
        self, pixels: NDArray[Any], *, return_tokens: bool = False, deadline: float = NEVER, trace: bytes = UNTRACED
    ) -> InferenceResult:
        """Return the result of one image. `trace` has no effect."""
        del trace
        self.admit(deadline=deadline)
        return InferenceResult(await self.run_batch((pixels, return_tokens)), 0, 0)

    @serve.batch(batch_wait_timeout_s=DEFAULT_WAIT)
    async def run_batch(self, entries: Sequence[tuple[NDArray[Any], bool]]) -> Any:
        """Return the outputs of a batch."""
        pixels, return_tokens = zip(*entries, strict=True)
        return await self._pool.run(lambda: self._call(pixels, return_tokens))


class Inside(Replica):
    """A replica that can load itself."""

    async def load(self, images: Sequence[bytes], clients: int, count: int) -> tuple[float, float, list[float]]:
        """Classify `count` images by concurrent clients in this process.

        Return the seconds of all together, the CPU seconds of this process, and the seconds of each image.
        """
        turn = cycle(images)

        async def call() -> None:
            await self.classify(next(turn))

        before = time.process_time()
        seconds, times = await timed_loop(clients, count, call)
        return seconds, time.process_time() - before, times


class Batched(Inside):
    """A replica with `serve.batch` in the place of the batcher."""

    def __init__(self, settings: Settings, wait: float) -> None:
        vars(backend)["Batcher"] = ServeBatcher  # this process runs nothing else
        ServeBatcher.run_batch.set_batch_wait_timeout_s(wait)
        super().__init__(settings)


class Facade:
    """A replica with `open_model`, which has an event loop of its own in another thread."""

    def __init__(self) -> None:
        self._model = open_model(device="cpu", threads=1)

    async def classify(self, image: bytes) -> Classification:
        """Return the best classes of an image."""
        return await asyncio.wrap_future(self._model.submit(image))


def applications() -> dict[str, Application]:
    """Return the applications by name."""
    batched = serve.deployment(serve.ingress()(Batched), name="Batched", **OPTIONS)
    return {
        "batcher": serve.deployment(serve.ingress()(Inside), name="Inside", **OPTIONS).bind(SETTINGS),
        "serve.batch, 10 ms": batched.bind(SETTINGS, DEFAULT_WAIT),
        "serve.batch, 0 ms": batched.bind(SETTINGS, NO_WAIT),
        "open_model": serve.deployment(Facade, name="Facade", **OPTIONS).bind(),
    }
