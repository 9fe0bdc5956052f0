"""Measurements: the figures of windows, without a service."""

import math

import pytest

from app.load.cpu_times import CpuTimes
from app.tuning.measurement import measurement
from app.tuning.objective import Objective
from tests.support.windows import window

OBJECTIVE = Objective(99, 0.1)
USED = CpuTimes(2.0, machine=1.9, generator=0.3, service=1.5)


def test_cpu_time_is_that_of_all_answers() -> None:
    """CPU times cover the warm-up, so they are shared by its answers, too: 1.5 s and 0.3 s by 300 answers."""
    found = measurement(window(rate=100, counts=(100, 0, 0, 0), ok_with_warm_up=300), OBJECTIVE, USED)

    assert found.cpu_ms == pytest.approx(5.0)
    assert found.generator_ms == pytest.approx(1.0)


def test_without_an_answer_there_is_no_cpu_time_of_a_request() -> None:
    """It is no number, and not zero, which would be the best."""
    assert math.isnan(measurement(window(rate=100, counts=(0, 9, 0, 0)), OBJECTIVE, USED).cpu_ms)


def test_noise_is_the_share_of_the_cpus_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others take 0.1 s of CPU time in 2 s. A container can have four CPUs of a large machine."""
    monkeypatch.setattr("app.tuning.measurement.allowed_cpus", lambda: frozenset({3, 4, 5, 60}))
    found = measurement(window(rate=100), OBJECTIVE, USED)

    assert found.noise == pytest.approx(0.05 / 4)
