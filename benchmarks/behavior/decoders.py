"""What all CPUs can decode and preprocess, without a service around them.

    python -m benchmarks.behavior.decoders BUNDLE

A process for each CPU, all in one window of time. One JSON line: images a second.
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

START_SECONDS = 60

_together: Barrier


def rate(recipe: Preprocessing, files: Sequence[bytes], seconds: float, cpus: int) -> float:
    """Images a second of so many processes.

    Raises:
        threading.BrokenBarrierError: one of them does not start.
    """
    context = multiprocessing.get_context("fork")  # nothing has a thread here yet, and there is nothing to import again
    together = context.Barrier(cpus)
    with ProcessPoolExecutor(cpus, context, initializer=_begin, initargs=(together,)) as pool:
        return sum(pool.map(_rate, [recipe] * cpus, [files] * cpus, [seconds] * cpus))


def _begin(together: Barrier) -> None:
    global _together  # noqa: PLW0603 (a lock is handed down at a process's start, or not at all)
    _together = together


def _rate(recipe: Preprocessing, files: Sequence[bytes], seconds: float) -> float:
    images = 0
    _together.wait(START_SECONDS)  # and so each process has one of the tasks
    started = time.perf_counter()
    while (took := time.perf_counter() - started) < seconds:
        decode_pixels(files[images % len(files)], recipe)
        images += 1
    return images / took


def main() -> int:
    """Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.behavior.decoders", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--photos", type=Path, metavar="DIR", help="JPEGs; else pictures are drawn")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=5.0)
    asked = parser.parse_args()
    recipe = load_bundle(asked.bundle).manifest.preprocessing
    files = Workload("", asked.images, ()).files(asked.photos)
    print(json.dumps({"images_per_second": rate(recipe, files, asked.seconds, available_cpus())}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
