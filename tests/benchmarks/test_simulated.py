"""Tests of the simulated engine: its times, and the assignment of results to images."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.behavior.simulated import MARK, SIDE, Device, SimulatedEngine, sustain, verdict
from tests.support.waiting import HANG_SECONDS

SECONDS = {1: 1.0, 2: 1.5, 4: 2.5}


class Clock:
    """A clock that advances only in `sleep`, by at most a second per call."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        """Advance the clock, by less than requested if that is more than a second."""
        self.now += min(seconds, 1.0)


class Gate:
    """A clock with sleeps that block until the gate opens. It records the requested seconds."""

    def __init__(self) -> None:
        self.requested = list[float]()
        self.now = 0.0
        self._asleep, self._opened = threading.Semaphore(0), threading.Event()

    def sleep(self, seconds: float) -> None:
        """Block until the gate opens."""
        self.requested.append(seconds)
        self._asleep.release()
        assert self._opened.wait(timeout=HANG_SECONDS), "the gate did not open"

    def wait_until_asleep(self) -> None:
        """Block until one more thread sleeps."""
        assert self._asleep.acquire(timeout=HANG_SECONDS), "no thread sleeps"

    def open(self) -> None:
        """Advance the clock beyond all batches, and end all sleeps."""
        self.now = 100.0
        self._opened.set()


def image(value: int) -> NDArray[np.uint8]:
    """Return an image of one color."""
    return np.full((SIDE, SIDE, 3), value, np.uint8)


def colors(engine: SimulatedEngine, *values: int) -> list[int]:
    """Run images of these colors, and return the colors in their results."""
    outputs = engine.answer([image(value) for value in values], [False] * len(values))
    assert all(output.logits.shape == (MARK,) for output in outputs)
    return [int(output.logits.max()) for output in outputs]


@pytest.mark.parametrize(("size", "expected"), [(1, 1.0), (2, 1.5), (3, 2.5), (4, 2.5)])
def test_a_batch_takes_the_time_of_the_table(size: int, expected: float) -> None:
    """The time is that of the bucket, even if sleeps end too early."""
    clock = Clock()

    colors(SimulatedEngine(Device(SECONDS, lambda: clock.now, clock.sleep)), *range(size))

    assert expected == clock.now


def test_idle_time_of_the_device_is_lost() -> None:
    """A batch that is submitted late starts at its submission."""
    clock = Clock()
    device = Device(SECONDS, lambda: clock.now, clock.sleep)
    device.compute(1)
    clock.now = 7.0

    device.compute(1)

    assert clock.now == 8.0


def test_each_image_has_its_own_result() -> None:
    """Results are in the order of the images, whatever the previous batch held."""
    clock = Clock()
    engine = SimulatedEngine(Device(SECONDS, lambda: clock.now, clock.sleep))
    colors(engine, 9, 8, 7, 6)

    assert colors(engine, 3, 5, 4) == [3, 5, 4]


def test_a_device_runs_one_batch_at_a_time() -> None:
    """A second engine waits for the batch of the first one and for its own."""
    gate = Gate()
    device = Device(SECONDS, lambda: gate.now, gate.sleep)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(colors, SimulatedEngine(device), 1, 2)
        gate.wait_until_asleep()
        second = threads.submit(colors, SimulatedEngine(device), 3)
        gate.wait_until_asleep()
        requested = list(gate.requested)
        gate.open()

        assert (first.result(10), second.result(10)) == ([1, 2], [3])
    assert requested == [1.5, 2.5]


@pytest.mark.parametrize(
    ("figures", "expected"), [({}, 0), ({"wrong": 1}, 1), ({"share": 0.89}, 1), ({"share": 0.9}, 0)]
)
def test_the_verdict_depends_on_results_and_the_share(figures: dict[str, Any], expected: int) -> None:
    """A wrong result fails, and so does a share below 90 % with two batches in flight, but not with one."""
    one, two = {"wrong": 0, "share": 0.5}, {"wrong": 0, "share": 1.0} | figures

    assert verdict({"engines": [one, two]}) == expected


@pytest.mark.slow
def test_the_batcher_reaches_the_rate_of_a_fast_device() -> None:
    """The batcher reaches 90 % of the rate of an H200; a second try tolerates a disturbance of the machine."""
    exit_codes = (verdict(sustain(1.0, 1)) for _ in range(2))

    assert 0 in exit_codes
