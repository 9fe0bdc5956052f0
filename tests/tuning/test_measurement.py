"""Measurements: the figures of windows, without a service."""

import asyncio
import math
from random import Random
from typing import Any

import pytest

from app.load.cpu_times import CpuTimes
from app.tuning.measurement import MAX_CLIENTS, ServiceMeter, measurement, traffic
from app.tuning.objective import Objective
from tests.support.windows import window
from tests.tuning.sent_requests import SentRequests

OBJECTIVE = Objective(99, 0.1)
USED = CpuTimes(2.0, machine=1.9, generator=0.3, service=1.5)


def test_cpu_time_is_that_of_all_answers() -> None:
    """CPU times cover the warm-up, so they are shared by its answers, too: 1.5 s and 0.3 s by 300 answers."""
    found = measurement(window(rate=100, counts=(100, 0, 0, 0), ok_with_warm_up=300), OBJECTIVE, USED)

    assert found.cpu_ms == pytest.approx(5.0)
    assert found.generator_ms == pytest.approx(1.0)


def test_without_an_answer_there_is_no_cpu_time_of_a_request() -> None:
    """The CPU time is NaN: zero would be the best of all candidates."""
    assert math.isnan(measurement(window(rate=100, counts=(0, 9, 0, 0)), OBJECTIVE, USED).cpu_ms)


def test_noise_is_the_share_of_the_cpus_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others take 0.1 s of CPU time in 2 s. A container can have four CPUs of a large machine."""
    monkeypatch.setattr("app.tuning.measurement.allowed_cpus", lambda: frozenset({3, 4, 5, 60}))
    found = measurement(window(rate=100), OBJECTIVE, USED)

    assert found.noise == pytest.approx(0.05 / 4)


def meter(service: Any, clients: int = 8) -> ServiceMeter:
    images = [b"%d" % number for number in range(1000)]
    return ServiceMeter(service, traffic(images, None, OBJECTIVE, clients), Random(0))


def test_a_window_goes_on_where_the_one_before_has_ended() -> None:
    """Otherwise, short windows would have the first images only, and other ones than long windows."""
    service = SentRequests()

    async def work() -> None:
        measured = meter(service)
        await measured.open(200, 0.1)
        await measured.http(1, 0.01)
        await measured.alone(0.1)

    asyncio.run(work())

    images = [int(request.rpartition(b"\r\n")[2]) for request in service.sent if b"/classify " in request]
    assert images == [number % 1000 for number in range(len(images))]
    assert service.windows == 3


@pytest.mark.parametrize(("max_connections", "expected"), [(10, 10), (100_000, MAX_CLIENTS)])
def test_the_generator_opens_no_more_connections_than_the_service_accepts(max_connections: int, expected: int) -> None:
    """The service refuses others with 503, which would count as late."""
    service = SentRequests()

    asyncio.run(meter(service, max_connections).alone(0.01))

    assert service.limits == [expected]
