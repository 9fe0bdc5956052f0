"""An engine that only takes time takes the time it says, and gives each row its own answer."""

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
    """Time goes on only where somebody sleeps, and never for longer than a second at once."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        """Wake early, as a sleep may."""
        self.now += min(seconds, 1.0)


class Gate:
    """A sleep that ends when it is let: until then time stands still, and what was asked for is noted."""

    def __init__(self) -> None:
        self.asked = list[float]()
        self.now = 0.0
        self._asleep, self._opened = threading.Semaphore(0), threading.Event()

    def sleep(self, seconds: float) -> None:
        """Until the gate is open."""
        self.asked.append(seconds)
        self._asleep.release()
        assert self._opened.wait(timeout=HANG_SECONDS), "nobody opened the gate"

    def wait_until_asleep(self) -> None:
        """Until one more sleeps."""
        assert self._asleep.acquire(timeout=HANG_SECONDS), "nobody sleeps"

    def open(self) -> None:
        """Let time jump to when everything is done."""
        self.now = 100.0
        self._opened.set()


def image(value: int) -> NDArray[np.uint8]:
    """Of one color."""
    return np.full((SIDE, SIDE, 3), value, np.uint8)


def answers(engine: SimulatedEngine, *values: int) -> list[int]:
    """Images of these colors, and the colors that their answers tell."""
    outputs = engine.answer([image(value) for value in values], [False] * len(values))
    assert all(output.logits.shape == (MARK,) for output in outputs)
    return [int(output.logits.max()) for output in outputs]


@pytest.mark.parametrize(("size", "expected"), [(1, 1.0), (2, 1.5), (3, 2.5), (4, 2.5)])
def test_a_batch_takes_what_the_table_says(size: int, expected: float) -> None:
    """That of the bucket it is padded to, even if the system wakes who waits too early."""
    clock = Clock()

    answers(SimulatedEngine(Device(SECONDS, lambda: clock.now, clock.sleep)), *range(size))

    assert expected == clock.now


def test_an_idle_device_saves_up_no_time() -> None:
    """A batch that comes late begins when it comes."""
    clock = Clock()
    device = Device(SECONDS, lambda: clock.now, clock.sleep)
    device.compute(1)
    clock.now = 7.0

    device.compute(1)

    assert clock.now == 8.0


def test_each_row_has_its_own_answer() -> None:
    """In the order of the rows, whatever was in the batch before."""
    clock = Clock()
    engine = SimulatedEngine(Device(SECONDS, lambda: clock.now, clock.sleep))
    answers(engine, 9, 8, 7, 6)

    assert answers(engine, 3, 5, 4) == [3, 5, 4]


def test_engines_of_one_device_take_turns() -> None:
    """The second has copied its rows, and waits for the first one's batch and its own."""
    gate = Gate()
    device = Device(SECONDS, lambda: gate.now, gate.sleep)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(answers, SimulatedEngine(device), 1, 2)
        gate.wait_until_asleep()
        second = threads.submit(answers, SimulatedEngine(device), 3)
        gate.wait_until_asleep()
        asked = list(gate.asked)
        gate.open()

        assert (first.result(10), second.result(10)) == ([1, 2], [3])
    assert asked == [1.5, 2.5]


@pytest.mark.parametrize(
    ("figures", "expected"), [({}, 0), ({"wrong": 1}, 1), ({"share": 0.89}, 1), ({"share": 0.9}, 0)]
)
def test_the_verdict_is_about_answers_and_the_share(figures: dict[str, Any], expected: int) -> None:
    """One wrong answer fails, and less than 90 % of the engine's rate with two batches in flight; with one it may."""
    one, two = {"wrong": 0, "share": 0.5}, {"wrong": 0, "share": 1.0} | figures

    assert verdict({"engines": [one, two]}) == expected


@pytest.mark.slow
def test_the_batcher_keeps_the_rate_of_a_fast_device() -> None:
    """90 % of the images an H200 would do; tried twice, as the machine may do something else."""
    shortfalls = (verdict(sustain(1.0, 1)) for _ in range(2))

    assert 0 in shortfalls
