"""CPU times: what is left of the machine."""

import pytest

from app.load.cpu_times import CpuTimes


def test_other_work_is_what_neither_the_service_nor_the_generator_takes() -> None:
    """In two seconds, the machine takes 5 s of CPU time, and the service and its load take 2 s of them."""
    before = CpuTimes(10.0, machine=100.0, generator=5.0, service=50.0)
    after = CpuTimes(12.0, machine=105.0, generator=5.5, service=51.5)

    assert after.since(before) == CpuTimes(2.0, machine=5.0, generator=0.5, service=1.5)
    assert after.since(before).other_cores == pytest.approx(1.5)


def test_other_work_is_never_negative() -> None:
    """The machine is counted in ticks: the difference can be below zero, and is then nothing."""
    assert CpuTimes(1.0, machine=0.0, generator=0.5, service=0.5).other_cores == 0


def test_the_time_of_this_process_is_that_of_the_generator() -> None:
    """The time of the service is given, so work of this process does not change it."""
    before = CpuTimes.now(service=1.0)
    sum(range(100_000))
    used = CpuTimes.now(service=1.5).since(before)

    assert used.generator > 0
    assert used.time > 0
    assert used.service == 0.5
