"""The engine's own rate, without a service around it: `python -m benchmarks.engine BUNDLE`.

Batches of every size the service is warm for, in turn, by the very code that serves. One JSON line: images a second and
CPU milliseconds an image of the best size.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app import bundle
from app.cpus import available_cpus
from app.engine import Engine
from app.golden import open_proved

BUCKETS = (1, 2, 4, 8)


def rate(engine: Engine, seconds: float) -> dict[str, float]:
    """Of the batch size that gives most images a second, by the median of its runs."""
    pixels = np.random.default_rng(0).integers(0, 256, (max(BUCKETS), *engine.image_shape), np.uint8)
    ends = time.perf_counter() + seconds
    runs: dict[int, list[tuple[float, float]]] = {size: [] for size in BUCKETS}  # seconds, CPU seconds
    while time.perf_counter() < ends:
        for size, taken in runs.items():
            taken.append(_run(engine, pixels[:size]))
    sizes = {size: statistics.median(elapsed for elapsed, _ in taken) for size, taken in runs.items()}
    best = max(sizes, key=lambda size: size / sizes[size])
    cpu = statistics.median(cpu for _, cpu in runs[best])
    return {"batch": best, "requests_per_second": best / sizes[best], "cpu_ms": cpu / best * 1e3}


def _run(engine: Engine, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> tuple[float, float]:
    started, cpu = time.perf_counter(), time.process_time()
    engine.run(pixels)
    return time.perf_counter() - started, time.process_time() - cpu


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=5)
    asked = parser.parse_args(arguments)
    engine = open_proved(bundle.load(asked.bundle), "cpu", available_cpus(), BUCKETS)
    print(json.dumps(rate(engine, asked.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
