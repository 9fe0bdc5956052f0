"""The engines' own rate, without a service around them: `python -m benchmarks.model.engine BUNDLE`.

An engine for each CPU on one session, or as many as are asked for, side by side, with batches of every size the service
may be warm for, in turn, by the very code that serves. One JSON line: images a second and CPU milliseconds an image of
the best size.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from app.bundle.load import load_bundle
from app.inference.engine import Engine
from app.inference.self_test import open_proved
from app.system.cpus import available_cpus
from app.system.device import CPU, Device, one_device

BUCKETS = (1, 2, 4, 8)
"""Of a service with batches of up to 8, as `server.py` starts it; whichever of them would pay there."""

ROUNDS = 2
"""Windows of each size, in turn with the others': a slow moment of the machine should not fall on one size alone."""


def engines(folder: Path, device: Device, batches: Sequence[int], count: int) -> list[Engine]:
    """As the service opens them: on one session on the CPU, each with its own on a GPU."""
    opened = load_bundle(folder)
    first = open_proved(opened, device, 1, batches)
    others = range(count - 1)
    return [first, *(first.sibling() if device == CPU else open_proved(opened, device, 1, batches) for _ in others)]


def rate(side_by_side: Sequence[Engine], seconds: float) -> dict[str, float]:
    """Of the batch size that gives most images a second, by the median of its windows."""
    buckets = side_by_side[0].buckets
    window = seconds / len(buckets) / ROUNDS
    found: dict[int, list[tuple[float, float]]] = {size: [] for size in buckets}  # images/s, CPU seconds an image
    for _ in range(ROUNDS):
        for size, windows in found.items():
            windows.append(_window(side_by_side, size, window))
    rates = {size: statistics.median(rate for rate, _ in windows) for size, windows in found.items()}
    best = max(rates, key=rates.__getitem__)
    cpu = statistics.median(cpu for _, cpu in found[best])
    return {"batch": best, "requests_per_second": rates[best], "cpu_ms": cpu * 1e3}


def _window(side_by_side: Sequence[Engine], size: int, seconds: float) -> tuple[float, float]:
    pixels = np.random.default_rng(0).integers(0, 256, (size, *side_by_side[0].image_shape), np.uint8)

    def run(engine: Engine) -> tuple[int, float]:
        images, ends = 0, time.perf_counter() + seconds
        while (
            not images or time.perf_counter() < ends
        ):  # once at least: a busy machine can sleep through a short window
            engine.run(pixels)
            images += size
        return images, time.perf_counter()

    started, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(len(side_by_side)) as threads:
        done = list(threads.map(run, side_by_side))
    images = sum(count for count, _ in done)
    # Each by its own time: the last batch of one may end when nobody else runs any more.
    return sum(count / (ended - started) for count, ended in done), (time.process_time() - cpu) / images


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model.engine", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--device", type=one_device, default=CPU)
    parser.add_argument("--instances-per-device", type=int, default=available_cpus(), help="(default: %(default)s)")
    parser.add_argument("--batches", nargs="+", type=int, default=BUCKETS, metavar="SIZE")
    asked = parser.parse_args(arguments)
    print(json.dumps(rate(engines(asked.bundle, asked.device, asked.batches, asked.engines), asked.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
