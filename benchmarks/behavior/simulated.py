"""An engine of which only the time is real: what the batcher keeps of a GPU's rate, where there is no GPU.

A batch takes what a table says, on a device that several engines share: rows are copied into the batch of one, as
`app/inference/engine.py` does it, while the device computes that of another. Each output is the beginning of its own
row, so that an answer that is another's is noticed.
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
from app.model_output import ModelOutput
from benchmarks.load.clients import closed_loop

SIDE = 224
MARK = 12
"""Bytes of a row that tell it from others: its first four pixels."""

BUCKETS = tuple(1 << power for power in range(7))
LONE, FULL = 0.0006, 0.006
H200 = {size: LONE * (FULL / LONE) ** (power / 6) for power, size in enumerate(BUCKETS)}
"""Seconds of a batch, from 1 to 64: about those of Swin-T in fp16 on such a device."""

IN_FLIGHT, CALLERS = (1, 2), 256
"""Engines on one device, a batch in flight for each; and images asked for at once: two batches, and two that wait."""

WARM_SHARE = 0.25
"""Of a window's seconds: before it opens."""

SHARE_TO_KEEP = 0.9
"""Of the engine's own rate."""


class Device:
    """Computes one batch at a time, in the order of asking.

    It goes on to the next at once, as a device with a queue of its own does, however late who waits for it wakes up.

    Args:
        seconds: by batch size.
        clock, sleep: those of `time`, or others in their place.
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
        """The least batch size of the table that so many rows fit into."""
        return next(bucket for bucket in self.seconds if bucket >= size)

    def compute(self, size: int) -> None:
        """Return when a batch of this size, one of the table, is done."""
        with self._lock:
            ends = self._free_at = max(self._free_at, self._clock()) + self.seconds[size]
        while (left := ends - self._clock()) > 0:
            self._sleep(left)


class SimulatedEngine:
    """Answers as `app.inference.engine.Engine` does, but for what it says."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._batch = np.zeros((max(device.seconds), SIDE, SIDE, 3), np.uint8)

    def answer(self, images: Sequence[NDArray[np.uint8]], return_tokens: Sequence[bool]) -> list[ModelOutput]:  # noqa: ARG002 (as a batcher asks)
        """An output for each image, (224, 224, 3): for logits, its first bytes."""
        size, bucket = len(images), self._device.bucket(len(images))
        np.stack(tuple(images), out=self._batch[:size])
        self._batch[size:bucket] = 0
        self._device.compute(bucket)
        marks = self._batch[:size].reshape(size, -1)[:, :MARK].astype(np.float32)  # by now another's, if shared
        return [ModelOutput(mark, None) for mark in marks]


def sustain(seconds: float, rounds: int) -> dict[str, Any]:
    """What callers of a batcher get of the rate of a device such as an H200, with one batch in flight and with two.

    Medians of windows of so many seconds, in turns.
    """
    windows: dict[int, list[dict[str, float]]] = {engines: [] for engines in IN_FLIGHT}
    for _, engines in product(range(rounds), IN_FLIGHT):
        windows[engines].append(uvloop.run(_window(engines, seconds)))
    own = max(size / taken for size, taken in H200.items())
    rows = [{"in_flight": engines, **_figures(found, own)} for engines, found in windows.items()]
    return {"engine": round(own, 1), "callers": CALLERS, "engines": rows}


def _figures(windows: Sequence[Mapping[str, float]], own: float) -> dict[str, float]:
    figures = {name: round(median(window[name] for window in windows), 3) for name in windows[0]}
    wrong = sum(window["wrong"] for window in windows)
    return {**figures, "wrong": wrong, "share": round(figures["images_per_second"] / own, 3)}


async def _window(engines: int, seconds: float) -> dict[str, float]:
    """Some seconds of callers each of whom asks again as soon as it is answered."""
    device, sizes, wrong = Device(H200), list[int](), 0
    batcher = Batcher(
        [SimulatedEngine(device).answer for _ in range(engines)],
        max_batch=max(H200),
        capacity=CALLERS,
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
    warm = WARM_SHARE * seconds
    opened, closed, _ = await asyncio.gather(
        sample(warm), sample(warm + seconds), closed_loop(CALLERS, warm + seconds, call)
    )
    await batcher.drain()
    took, cpu, _ = (end - start for start, end in zip(opened, closed, strict=True))
    inside = sizes[opened[2] : closed[2]]
    return {
        "images_per_second": sum(inside) / took,
        "cpu_ms": cpu / sum(inside) * 1e3,
        "batch": sum(inside) / len(inside),
        "wrong": wrong,
    }


def _images() -> list[tuple[NDArray[np.uint8], bytes]]:
    """Pixels, each other ones, and the logits they have to come to."""
    drawn = np.random.default_rng(0).integers(0, 256, (CALLERS, SIDE, SIDE, 3), np.uint8)
    return [(pixels, pixels.reshape(-1)[:MARK].astype(np.float32).tobytes()) for pixels in drawn]


def show(figures: Mapping[str, Any]) -> None:
    """For people."""
    print("the engine alone: {engine:.0f} images/s\n".format(**figures))
    print("in flight  images/s   share  CPU ms  a batch  wrong")
    for row in figures["engines"]:
        line = "{in_flight:9}{images_per_second:10.0f}{share:8.1%}{cpu_ms:8.3f}{batch:9.1f}{wrong:7.0f}"
        print(line.format(**row))


def verdict(figures: Mapping[str, Any]) -> int:
    """1 if an answer was wrong, or with two batches in flight too little is kept of the engine's own rate."""
    rows = figures["engines"]
    return int(any(row["wrong"] for row in rows) or rows[-1]["share"] < SHARE_TO_KEEP)
