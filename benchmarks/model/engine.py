"""Rate of the engines without a service: `python -m benchmarks.model.engine BUNDLE`.

Runs the engines of the service concurrently, one for each CPU by default, with each batch size in
turn. Prints one JSON line: the best batch size, its images per second, and the CPU milliseconds of
an image.
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
from app.inference.self_test import open_verified
from app.system.cpus import available_cpus
from app.system.device import CPU, Device, one_device

# Batch sizes of a service with batches of up to 8, as `server.py` starts it.
BUCKETS = (1, 2, 4, 8)

# Windows of each batch size, interleaved, so that a disturbance does not affect one size alone.
ROUNDS = 2


def engines(folder: Path, device: Device, batches: Sequence[int], count: int) -> list[Engine]:
    """Open the engines as the service does: on the CPU they share a session, on a GPU each has its own."""
    opened = load_bundle(folder)
    first = open_verified(opened, device, 1, batches)
    others = range(count - 1)
    return [first, *(first.sibling() if device == CPU else open_verified(opened, device, 1, batches) for _ in others)]


def rate(side_by_side: Sequence[Engine], seconds: float) -> dict[str, float]:
    """Return the figures of the batch size with the best rate, by the median of its windows."""
    buckets = side_by_side[0].buckets
    window = seconds / len(buckets) / ROUNDS
    # Batch size → windows of images per second and CPU seconds per image.
    found: dict[int, list[tuple[float, float]]] = {size: [] for size in buckets}
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
        while not images or time.perf_counter() < ends:  # a thread may not be scheduled within a short window
            engine.run(pixels)
            images += size
        return images, time.perf_counter()

    started, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(len(side_by_side)) as threads:
        done = list(threads.map(run, side_by_side))
    images = sum(count for count, _ in done)
    # The rates of the engines are added: their last batches do not end at the same time.
    return sum(count / (ended - started) for count, ended in done), (time.process_time() - cpu) / images


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model.engine", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=5, help="for all batch sizes (default: %(default)s)")
    parser.add_argument("--device", type=one_device, default=CPU)
    parser.add_argument("--instances-per-device", type=int, default=available_cpus(), help="(default: %(default)s)")
    parser.add_argument("--batches", nargs="+", type=int, default=BUCKETS, metavar="SIZE")
    args = parser.parse_args(arguments)
    opened = engines(args.bundle, args.device, args.batches, args.instances_per_device)
    print(json.dumps(rate(opened, args.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
