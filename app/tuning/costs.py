"""The costs of a request, each measured alone: batches by size and threads, and the decoding of the user's images.

Knows no HTTP and no queue. `prediction.py` puts the costs together.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.bundle.load import Bundle
from app.images.reading import ImageReader, image_reader
from app.inference.engine import Engine
from app.inference.pool import open_engines
from app.settings import Settings

# Seconds of runs of one batch size, and the minimum number of runs.
SIZE_SECONDS, MIN_RUNS = 0.1, 3

# The names of the thread that measures, and of those that decode. `app/system/process_exit.py` does not wait for them
# forever: an engine of TensorRT takes minutes to open.
COSTS_THREAD, DECODE_THREADS = "costs", "decode"


class Cost(NamedTuple):
    """The time of some work, and the CPU time that it takes on all threads."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class EngineCosts:
    """The costs of batches on one engine, by size. A service forms no larger batches than these."""

    device: str
    threads: int
    batches: Mapping[int, Cost]
    devices: int = 1  # with an engine like this one

    @property
    def largest(self) -> int:
        """The largest batch that makes an image cheaper."""
        return max(self.batches)


@dataclass(frozen=True)
class DecodeCosts:
    """The costs of decoding and preprocessing one of the user's images."""

    image: Cost  # in one thread
    images_per_second: float  # in as many threads as there are CPUs


@dataclass(frozen=True)
class Costs:
    """All costs of a request that are known before a service runs."""

    cpus: float  # that this process may use
    engines: Mapping[int | None, EngineCosts]  # by the setting `threads`; None is the default
    decode: Mapping[str, DecodeCosts]  # by the setting `decode`

    @property
    def on_gpu(self) -> bool:
        """Return whether the network runs on a GPU."""
        return self.engines[None].device != "cpu"


class Cancelled(Exception):
    """The measurement was cancelled."""


@dataclass(frozen=True)
class CostMeter:
    """Measures costs. `is_cancelled` is asked between two runs."""

    bundle: Bundle
    settings: Settings  # those that are not tuned
    is_cancelled: Callable[[], bool] = lambda: False

    def engines(self, threads: Sequence[int | None], limit: float) -> dict[int | None, EngineCosts]:
        """Measure engines with these numbers of threads, one after the other.

        After `limit` seconds, no engine is begun, and one run of each size is enough.

        Raises:
            DeviceError: a device does not pass the self-test.
            Cancelled: the measurement was cancelled.
        """
        ends, found = time.perf_counter() + limit, dict[int | None, EngineCosts]()
        for each in threads:
            if time.perf_counter() < ends:
                found[each] = self._engine(each, ends)
        return found

    def _engine(self, threads: int | None, ends: float) -> EngineCosts:
        self._check()
        # By default, one engine is enough: the service opens others like it.
        instances = self.settings.instances_per_device or 1
        given = {"instances_per_device": instances, "threads": threads or self.settings.threads}
        first, *others = open_engines(self.bundle, self.settings.model_copy(update=given))
        try:
            pixels = np.zeros((first.buckets[-1], *first.image_shape), np.uint8)
            batches = {size: self._batch(first, pixels[:size], ends) for size in first.buckets}
        finally:
            for engine in (first, *others):
                engine.close()
        report, devices = first.device_report, (1 + len(others)) // instances
        return EngineCosts(str(report.device), report.threads, batches, devices)

    def _batch(self, engine: Engine, pixels: NDArray[np.uint8], ends: float) -> Cost:
        """Return the median time of a batch, and its mean CPU time."""
        seconds, cpu_started = list[float](), time.process_time()
        while not seconds or (time.perf_counter() < ends and (len(seconds) < MIN_RUNS or sum(seconds) < SIZE_SECONDS)):
            self._check()
            started = time.perf_counter()
            engine.run(pixels)
            seconds.append(time.perf_counter() - started)
        return Cost(statistics.median(seconds), (time.process_time() - cpu_started) / len(seconds))

    def decode(
        self, images: Sequence[bytes], modes: Sequence[str], threads: int, limit: float
    ) -> dict[str, DecodeCosts]:
        """Measure the decoding of images, alone and in several threads, in each mode, within `limit` seconds.

        Raises:
            Cancelled: the measurement was cancelled.
        """
        share = limit / (2 * len(modes))
        found = dict[str, DecodeCosts]()
        for mode in modes:
            settings = self.settings.model_copy(update={"decode": mode})
            reader = image_reader(settings, self.bundle.manifest.preprocessing)
            found[mode] = DecodeCosts(
                self._alone(reader, images, share), self._together(reader, images, share, threads)
            )
        return found

    def _alone(self, reader: ImageReader, images: Sequence[bytes], limit: float) -> Cost:
        started, cpu_started, count = time.perf_counter(), time.process_time(), 0
        for image in itertools.cycle(images):
            self._check()
            reader.pixels(image)
            count += 1
            if time.perf_counter() - started >= limit:
                break
        elapsed = time.perf_counter() - started
        return Cost(elapsed / count, (time.process_time() - cpu_started) / count)

    def _together(self, reader: ImageReader, images: Sequence[bytes], limit: float, threads: int) -> float:
        """Return the images per second of several threads, which share the interpreter lock."""
        ends = time.perf_counter() + limit

        def work(first: int) -> int:
            count = 0
            while count == 0 or (time.perf_counter() < ends and not self.is_cancelled()):
                reader.pixels(images[(first + count) % len(images)])
                count += 1
            return count

        started = time.perf_counter()
        with ThreadPoolExecutor(threads, thread_name_prefix=DECODE_THREADS) as pool:
            done = sum(pool.map(work, range(threads)))
        self._check()
        return done / (time.perf_counter() - started)

    def _check(self) -> None:
        if self.is_cancelled():
            raise Cancelled
