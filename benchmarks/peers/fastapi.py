# /// script
# dependencies = [
#     "fastapi==0.165.0", "uvicorn[standard]==0.54.0",
#     "onnxruntime==1.31.1", "numpy==2.4.6", "pillow==13.0.0",
# ]
# ///
"""FastAPI by hand: no batches, each image is decoded and run in the thread pool of the framework."""

from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from benchmarks.peers.network import PORT, Network, Recipe

app = FastAPI()
recipe, network = Recipe(), Network()


def answer(data: bytes) -> Any:
    """Everything there is to do for one image."""
    return network.classify([recipe.read(data)])[0]


@app.post("/classify")
async def classify(request: Request) -> Any:
    """One image, as the body."""
    return await run_in_threadpool(answer, await request.body())


if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="warning")
