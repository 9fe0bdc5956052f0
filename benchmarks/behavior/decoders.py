"""Rate of decoding and preprocessing on all CPUs, without a service.

    python -m benchmarks.behavior.decoders BUNDLE

Runs a process for each CPU, all at the same time. Prints one JSON line: images per second.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path

from app.bundle.load import load_bundle
from app.bundle.manifest import Preprocessing
from app.images.preprocess import decode_pixels
from app.system.cpus import available_cpus
from benchmarks.comparison.workload import Workload

# Timeout for the start of all processes, in seconds.
START_SECONDS = 60

_barrier: Barrier


def rate(recipe: Preprocessing, files: Sequence[bytes], seconds: float, cpus: int) -> float:
    """Return the images per second of this number of processes.

    Raises:
        threading.BrokenBarrierError: one of them does not start.
    """
    context = multiprocessing.get_context("fork")  # safe: no thread runs yet. The children need not import again
    barrier = context.Barrier(cpus)
    with ProcessPoolExecutor(cpus, context, initializer=_set_barrier, initargs=(barrier,)) as pool:
        return sum(pool.map(_rate, [recipe] * cpus, [files] * cpus, [seconds] * cpus))


def _set_barrier(barrier: Barrier) -> None:
    global _barrier  # noqa: PLW0603 (a process can inherit a barrier only at its start)
    _barrier = barrier


def _rate(recipe: Preprocessing, files: Sequence[bytes], seconds: float) -> float:
    images = 0
    _barrier.wait(START_SECONDS)  # therefore each process gets exactly one of the tasks
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        decode_pixels(files[images % len(files)], recipe)
        images += 1
    return images / elapsed


def main() -> int:
    """Measure and print. Return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.behavior.decoders", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--photos", type=Path, metavar="DIR", help="folder of JPEGs (default: drawn pictures)")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    recipe = load_bundle(args.bundle).manifest.preprocessing
    files = Workload("", args.images, ()).files(args.photos)
    print(json.dumps({"images_per_second": rate(recipe, files, args.seconds, available_cpus())}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
