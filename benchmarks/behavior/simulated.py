"""A simulated engine with the timing of a GPU: the share of its rate that the batcher reaches.

A table gives the time of a batch on the simulated device, which several engines share. While the
device computes the batch of one engine, another engine copies images into its batch, as
`app/inference/engine.py` does. Each output is the first bytes of its own image, so that swapped
results are detected.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, product
from statistics import median
from threading import Lock
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray

from app.batching.batcher import Batcher
from app.load.loops import closed_loop
from app.model_output import ModelOutput

SIDE = 224

# Bytes that identify an image: its first four pixels.
MARK = 12

# Seconds of a batch of 1 to 64 images: about those of Swin-T in fp16 on an H200.
BUCKETS = tuple(1 << power for power in range(7))
SINGLE, FULL = 0.0006, 0.006
H200 = {size: SINGLE * (FULL / SINGLE) ** (power / 6) for power, size in enumerate(BUCKETS)}

# Engines on one device, each with one batch in flight.
IN_FLIGHT = (1, 2)

# Concurrent clients: enough for two batches in flight and two in the queue.
CLIENTS = 256

# Warm-up before a window, as a share of the seconds of the window.
WARM_UP_SHARE = 0.25

# Minimum share of the engine's own rate with two batches in flight.
MIN_SHARE = 0.9


class Device:
    """A simulated device that computes one batch at a time, in the order of the calls.

    Like a device with a queue of its own, it starts the next batch without delay, even if the waiting
    thread wakes up late.

    Args:
        seconds: time of a batch, by batch size.
        clock: replaces `time.perf_counter`.
        sleep: replaces `time.sleep`.
    """

    def __init__(
        self,
        seconds: Mapping[int, float],
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.seconds = dict(sorted(seconds.items()))
        self._clock, self._sleep = clock, sleep
        self._lock, self._free_at = Lock(), 0.0

    def bucket(self, size: int) -> int:
        """Return the smallest batch size of the table that holds this number of images."""
        return next(bucket for bucket in self.seconds if bucket >= size)

    def compute(self, size: int) -> None:
        """Block until a batch of this size of the table is done."""
        with self._lock:
            ends = self._free_at = max(self._free_at, self._clock()) + self.seconds[size]
        while (left := ends - self._clock()) > 0:
            self._sleep(left)


class SimulatedEngine:
    """An engine with the interface of `app.inference.engine.Engine`, without a network."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._batch = np.zeros((max(device.seconds), SIDE, SIDE, 3), np.uint8)

    def answer(self, images: Sequence[NDArray[np.uint8]], return_tokens: Sequence[bool]) -> list[ModelOutput]:  # noqa: ARG002 (the interface of the batcher)
        """Return an output for each image of (224, 224, 3), with its first bytes as logits."""
        size, bucket = len(images), self._device.bucket(len(images))
        np.stack(tuple(images), out=self._batch[:size])
        self._batch[size:bucket] = 0
        self._device.compute(bucket)
        marks = self._batch[:size].reshape(size, -1)[:, :MARK].astype(np.float32)  # wrong if engines shared the buffer
        return [ModelOutput(mark, None) for mark in marks]


def sustain(seconds: float, rounds: int) -> dict[str, Any]:
    """Return the rate of a batcher on the simulated device, with one batch in flight and with two.

    The figures are medians of interleaved windows of this number of seconds.
    """
    windows: dict[int, list[dict[str, float]]] = {engines: [] for engines in IN_FLIGHT}
    for _, engines in product(range(rounds), IN_FLIGHT):
        windows[engines].append(uvloop.run(_window(engines, seconds)))
    own = max(size / taken for size, taken in H200.items())
    rows = [{"in_flight": engines, **_figures(found, own)} for engines, found in windows.items()]
    return {"engine": round(own, 1), "clients": CLIENTS, "engines": rows}


def _figures(windows: Sequence[Mapping[str, float]], own: float) -> dict[str, float]:
    figures = {name: round(median(window[name] for window in windows), 3) for name in windows[0]}
    wrong = sum(window["wrong"] for window in windows)
    return {**figures, "wrong": wrong, "share": round(figures["images_per_second"] / own, 3)}


async def _window(engines: int, seconds: float) -> dict[str, float]:
    """Measure one window of a closed loop of clients."""
    device, sizes, wrong = Device(H200), list[int](), 0
    batcher = Batcher(
        [SimulatedEngine(device).answer for _ in range(engines)],
        max_batch=max(H200),
        capacity=CLIENTS,
        expected_seconds=lambda size: H200[device.bucket(size)],
        on_batch=lambda report: sizes.append(report.size),
    )
    images = cycle(_images())

    async def call() -> None:
        nonlocal wrong
        pixels, mark = next(images)
        wrong += (await batcher.submit(pixels)).output.logits.tobytes() != mark

    async def sample(delay: float) -> tuple[float, float, int]:
        await asyncio.sleep(delay)
        return time.perf_counter(), time.process_time(), len(sizes)

    batcher.start()
    warm_up = WARM_UP_SHARE * seconds
    opened, closed, _ = await asyncio.gather(
        sample(warm_up), sample(warm_up + seconds), closed_loop(CLIENTS, warm_up + seconds, call)
    )
    await batcher.drain()
    elapsed, cpu, _ = (end - start for start, end in zip(opened, closed, strict=True))
    inside = sizes[opened[2] : closed[2]]
    return {
        "images_per_second": sum(inside) / elapsed,
        "cpu_ms": cpu / sum(inside) * 1e3,
        "batch": sum(inside) / len(inside),
        "wrong": wrong,
    }


def _images() -> list[tuple[NDArray[np.uint8], bytes]]:
    """Return different images, each with its expected logits."""
    drawn = np.random.default_rng(0).integers(0, 256, (CLIENTS, SIDE, SIDE, 3), np.uint8)
    return [(pixels, pixels.reshape(-1)[:MARK].astype(np.float32).tobytes()) for pixels in drawn]


def show(figures: Mapping[str, Any]) -> None:
    """Print the figures as a table."""
    print("the engine alone: {engine:.0f} images/s\n".format(**figures))
    print("in flight  images/s   share  CPU ms    batch  wrong")
    for row in figures["engines"]:
        line = "{in_flight:9}{images_per_second:10.0f}{share:8.1%}{cpu_ms:8.3f}{batch:9.1f}{wrong:7.0f}"
        print(line.format(**row))


def verdict(figures: Mapping[str, Any]) -> int:
    """Return 1 if a result was wrong, or if the share with two batches in flight is below `MIN_SHARE`."""
    rows = figures["engines"]
    return int(any(row["wrong"] for row in rows) or rows[-1]["share"] < MIN_SHARE)
