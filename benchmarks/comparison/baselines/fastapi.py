# /// script
# dependencies = [
#     "fastapi==0.165.0", "uvicorn[standard]==0.54.0",
#     "onnxruntime==1.31.1", "numpy==2.4.6", "pillow==13.0.0",
# ]
# ///
"""FastAPI with a process for each core, without batches.

Images are decoded and run in its thread pool.
"""

from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from benchmarks.comparison.baselines.network import CPUS, PORT, Network, Recipe

app = FastAPI()
recipe, network = Recipe(), Network(threads=1)


def predict(data: bytes) -> Any:
    """Decode one image, run the network, and return its predictions."""
    return network.classify([recipe.read(data)])[0]


@app.post("/classify")
async def classify(request: Request) -> Any:
    """Return the predictions of the image in the request body."""
    return await run_in_threadpool(predict, await request.body())


if __name__ == "__main__":
    uvicorn.run("benchmarks.comparison.baselines.fastapi:app", port=PORT, workers=CPUS, log_level="warning")
