"""The fleet: how many processes run at once. Its processes are fakes."""

import asyncio
from typing import Any

import pytest

from app.system.processes import ResourceUsage
from app.tuning import fleet as fleets
from app.tuning.candidate import Candidate, candidate_of
from app.tuning.fleet import LATER_START_SHARE, Launch, ProcessFleet, open_fleet
from app.tuning.objective import Objective
from app.tuning.service_process import ServiceProcess

FIRST, SECOND, THIRD = (candidate_of({"max_batch": size}) for size in (1, 2, 4))


class FakeProcess:
    """A process of 100 MB, or of `memory` bytes."""

    start_seconds, memory = 2.0, 100_000_000
    fault: OSError | None = None  # of its stop

    def __init__(self, running: "list[FakeProcess]", variables: dict[str, str], timeout: float) -> None:
        self._running, self.variables, self.timeout = running, variables, timeout
        running.append(self)

    def usage(self) -> ResourceUsage:
        return ResourceUsage(0, self.memory)

    def stop(self) -> None:
        if self.fault:
            raise self.fault
        self._running.remove(self)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> list[FakeProcess]:
    """Return the processes that run."""
    found = list[FakeProcess]()

    async def start(variables: dict[str, str], _: str | None, limit: float) -> FakeProcess:
        return FakeProcess(found, variables, limit)

    monkeypatch.setattr(ServiceProcess, "start", start)
    monkeypatch.setattr(fleets, "available_memory", lambda: 10**9)  # for five processes
    return found


def launch(*, on_gpu: bool = False) -> Launch:
    return Launch({"SWIN_DEVICE": "cpu"}, None, [b"image"], Objective(99, 0.1), on_gpu, 1024, 60)


def test_a_later_start_may_take_a_part_of_the_time(running: list[FakeProcess]) -> None:
    """The first one has the time of the run. A later one that hangs does not take it."""
    asyncio.run(use(ProcessFleet(launch()), FIRST, SECOND))

    assert [process.timeout for process in running] == [60, 60 * LATER_START_SHARE]


async def use(fleet: ProcessFleet, *candidates: Candidate) -> None:
    for candidate in candidates:
        await fleet.meter(candidate)


@pytest.mark.parametrize(("available", "expected"), [(10**9, 3), (300_000_000, 2), (0, 1)])
def test_processes_take_half_of_the_memory(
    available: int, expected: int, running: list[FakeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three candidates of 100 MB, as many run at once as fit. One runs in any case."""
    monkeypatch.setattr(fleets, "available_memory", lambda: available)

    asyncio.run(use(ProcessFleet(launch()), FIRST, SECOND, THIRD))

    assert len(running) == expected


def test_the_process_that_was_not_used_for_longest_gives_way(
    running: list[FakeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is used again, so the second one is stopped for the third."""
    monkeypatch.setattr(fleets, "available_memory", lambda: 300_000_000)

    asyncio.run(use(ProcessFleet(launch()), FIRST, SECOND, FIRST, THIRD))

    assert [process.variables["SWIN_MAX_BATCH"] for process in running] == ["1", "4"]


def test_a_running_process_is_not_started_again(running: list[FakeProcess]) -> None:
    """Each candidate has one process, with the settings of the user and its own."""
    asyncio.run(use(ProcessFleet(launch()), FIRST, FIRST, FIRST))

    assert [process.variables for process in running] == [{"SWIN_DEVICE": "cpu", "SWIN_MAX_BATCH": "1"}]


def test_few_processes_share_a_gpu(running: list[FakeProcess]) -> None:
    """Its memory is not that of the machine, which would be enough for all three."""
    asyncio.run(use(ProcessFleet(launch(on_gpu=True)), FIRST, SECOND, THIRD))

    assert len(running) == 2


def test_few_processes_run_if_their_memory_is_not_known(
    running: list[FakeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of 0 bytes does not mean that endlessly many fit."""
    monkeypatch.setattr(FakeProcess, "memory", 0)

    asyncio.run(use(ProcessFleet(launch()), FIRST, SECOND, THIRD))

    assert len(running) == 2


def test_all_processes_end_with_the_fleet(running: list[FakeProcess]) -> None:
    """Also if the work fails."""

    async def work() -> Any:
        async with open_fleet(launch()) as fleet:
            await use(fleet, FIRST, SECOND)
            assert len(running) == 2
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(work())

    assert running == []


def test_a_process_that_cannot_be_stopped_does_not_keep_the_others(running: list[FakeProcess]) -> None:
    """All others are stopped before the error is raised."""

    async def work() -> None:
        async with open_fleet(launch()) as fleet:
            await use(fleet, FIRST, SECOND, THIRD)
            running[1].fault = OSError("no files")

    with pytest.raises(OSError, match="no files"):
        asyncio.run(work())

    assert [process.variables["SWIN_MAX_BATCH"] for process in running] == ["2"]
