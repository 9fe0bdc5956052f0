"""A sweep: which windows are measured, in which order, and when it ends early."""

import asyncio
from contextlib import closing
from random import Random
from typing import cast

import pytest

from app.load.cpu_times import CpuTimes
from app.load.other_work import OtherWork, is_loopback
from app.load.sweep import SHARES, Plan, Sweep
from app.load.target import Target
from app.load.windows import Load, Window
from tests.support.served import Served
from tests.support.windows import window


class FakeLoad:
    """Load with scripted windows. Without a script, each window is good."""

    def __init__(self, *counts: tuple[int, int, int, int], is_answered: bool = False) -> None:
        self.asked = list[tuple[str, float]]()
        self._counts, self._is_answered = list(counts), is_answered

    async def closed(self, clients: int, seconds: float, warm_up: float) -> Window:
        assert (seconds, warm_up) == (5.0, 1.0)
        self.asked.append(("closed", clients))
        return window(clients=clients, counts=self._next())

    async def open(self, rate: float, seconds: float, random: Random, warm_up: float) -> Window:
        assert (seconds, warm_up) == (5.0, 1.0)
        assert random.random() != Random(1).random()
        self.asked.append(("open", rate))
        return window(rate=rate, counts=self._next())

    async def is_answered(self) -> bool:
        return self._is_answered

    def _next(self) -> tuple[int, int, int, int]:
        return self._counts.pop(0) if self._counts else (1000, 0, 0, 0)


class FakeOther:
    """Samples of a machine on which other work uses one core and a half."""

    def __init__(self) -> None:
        self._time = 0.0

    async def sample(self) -> CpuTimes:
        self._time += 2
        return CpuTimes(self._time, machine=2 * self._time, generator=self._time / 4, service=self._time / 4)


class Noted:
    """The progress that was shown."""

    def __init__(self) -> None:
        self.shown = list[str]()

    def begin(self, name: str) -> None:
        self.shown.append(f"begin {name}")

    def end(self, name: str, window: Window) -> None:
        assert window.counts
        self.shown.append(f"end {name}")


def swept(load: FakeLoad, rates: tuple[float, ...] | None, clients: tuple[int, ...] = (1, 8)) -> tuple[Sweep, Noted]:
    sweep, noted = Sweep(Plan(clients, rates, 5.0, 1.0, 0)), Noted()
    asyncio.run(sweep.run(cast("Load", load), cast("OtherWork", FakeOther()), noted))
    return sweep, noted


def test_closed_loops_come_before_open_loops() -> None:
    """Each window is measured once, in the order of the plan, between two calls of the progress."""
    load = FakeLoad()
    sweep, noted = swept(load, (50.0, 100.0))

    assert load.asked == [("closed", 1), ("closed", 8), ("open", 50.0), ("open", 100.0)]
    assert [len(sweep.closed), len(sweep.open), sweep.plan.windows] == [2, 2, 4]
    assert sweep.is_complete
    assert noted.shown[:3] == ["begin 1 client", "end 1 client", "begin 8 clients"]
    assert noted.shown[-1] == "end 100.0 arrivals/s"


def test_rates_are_shares_of_the_best_closed_loop() -> None:
    """Without given rates, arrivals are shares of the highest rate, which more clients need not reach."""
    load = FakeLoad((2000, 0, 0, 0), (1000, 0, 0, 0))
    sweep, _ = swept(load, None)

    assert [rate for kind, rate in load.asked if kind == "open"] == [share * 400 for share in SHARES]
    assert sweep.plan.windows == 2 + len(SHARES)


def test_a_service_that_refuses_everything_has_no_shares() -> None:
    """Without a good response there is no rate, so no open loop. That is complete."""
    load = FakeLoad(*[(0, 9, 0, 0)] * 2)
    sweep, _ = swept(load, None)

    assert [kind for kind, _ in load.asked] == ["closed", "closed"]
    assert sweep.is_complete
    assert not sweep.is_silent


@pytest.mark.parametrize("lost_at", [0, 2])
def test_a_service_that_ceases_to_answer_ends_the_sweep(lost_at: int) -> None:
    """After a window without responses, and no response to one more request, no other window follows."""
    load = FakeLoad(*[(1000, 0, 0, 0)] * lost_at, (0, 0, 0, 5))
    sweep, _ = swept(load, (50.0, 100.0))

    assert len(sweep.all) == lost_at + 1
    assert sweep.is_silent
    assert not sweep.is_complete


def test_a_service_that_lost_a_window_but_answers_again_is_measured() -> None:
    """An overloaded generator can lose a window. The service is asked once more before the sweep ends."""
    sweep, _ = swept(FakeLoad((0, 0, 0, 5), is_answered=True), (50.0,))

    assert sweep.is_complete
    assert not sweep.is_silent


def test_other_work_is_the_rest_of_the_machine() -> None:
    """Two cores are busy. The load and the service use a quarter of a core each."""
    sweep, _ = swept(FakeLoad(), ())

    assert [measured.other_cores for measured in sweep.all] == [1.5, 1.5]


def test_a_service_on_this_machine_reports_its_cpu_time(served: Served) -> None:
    """The sample has the CPU time of the service, of this process and of the machine."""

    async def sample() -> CpuTimes | None:
        target = Target(served.url)
        with closing(target.pool()) as pool:
            return await OtherWork(target, pool).sample()

    found = asyncio.run(sample())
    assert found is not None
    assert 0 < found.service < found.machine
    assert found.generator > 0


def test_a_service_elsewhere_has_no_sample(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPUs of another machine are not those of this one, even if the service reports them."""
    monkeypatch.setattr("app.load.other_work.is_loopback", lambda _: False)

    async def sample() -> CpuTimes | None:
        target = Target(served.url)
        with closing(target.pool()) as pool:
            return await OtherWork(target, pool).sample()

    assert asyncio.run(sample()) is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.0.0.2", True), ("::1", True), ("192.0.2.7", False), ("example.org", False)],
)
def test_loopback_is_told_by_the_name(host: str, expected: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    """No name is looked up."""
    assert is_loopback(host) == expected
