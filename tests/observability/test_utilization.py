"""`app/observability/utilization.py`: how busy each component was, and the verdict."""

import pytest

from app.observability.metrics import Metrics
from app.observability.utilization import (
    WINDOW_SECONDS,
    BusySeconds,
    InstanceCounts,
    Utilization,
    UtilizationMonitor,
    busy_seconds,
    total,
)

# A service of one process on two CPUs.
ONE_PROCESS = InstanceCounts(engine=1, decode=4, http_worker=1, cpu=2)

# A service with HTTP workers.
SEVERAL_PROCESSES = InstanceCounts(engine=2, decode=12, http_worker=4, batcher=1, cpu=16)


def monitor_of(
    utilization: Utilization, instances: InstanceCounts = ONE_PROCESS, *, engines_use_cpus: bool = False
) -> UtilizationMonitor:
    """Return a monitor after a second in which each component was as busy as this."""
    monitor = UtilizationMonitor(instances, engines_use_cpus=engines_use_cpus)
    monitor.record(100.0, BusySeconds())
    monitor.record(101.0, BusySeconds(*(share * count for share, count in zip(utilization, instances, strict=True))))
    return monitor


@pytest.mark.parametrize(
    ("utilization", "engines_use_cpus", "beginning", "end"),
    [
        (Utilization(engine=0.97, decode=0.9, cpu=0.95), True, "CPU-bound: ", ": an int8 bundle, or more CPUs"),
        (
            Utilization(engine=0.3, decode=0.9, cpu=0.95),
            True,
            "CPU-bound: ",
            ": decode=fast, smaller images, or more CPUs",
        ),
        (Utilization(engine=0.97, decode=0.9, cpu=0.95), False, "engine-bound: ", "or a bundle of lower precision"),
        (Utilization(engine=0.9, cpu=0.5), True, "engine-bound: ", ": more threads or engines"),
        (
            Utilization(engine=0.3, batcher=0.9, decode=0.9),
            False,
            "batcher-bound: ",
            ": another service beside this one",
        ),
        (
            Utilization(engine=0.3, decode=0.97, cpu=0.95),
            False,
            "decode-bound: ",
            ": more CPUs, decode=fast, or smaller images",
        ),
        (Utilization(engine=0.3, decode=0.97, cpu=0.5), False, "decode-bound: ", ": more HTTP workers"),
        (Utilization(engine=0.3, http_worker=0.9, cpu=0.6), False, "HTTP worker-bound: ", ": more HTTP workers"),
        (Utilization(engine=0.3, http_worker=0.5, cpu=0.95), False, "CPU-bound: ", ": more CPUs"),
        (Utilization(engine=0.3, http_worker=0.5, cpu=0.5), True, "nothing is at its limit: ", "at 50%"),
        (Utilization(), True, "nothing is at its limit: ", "at 0%"),
    ],
)
def test_the_verdict_names_the_limit(
    utilization: Utilization, *, engines_use_cpus: bool, beginning: str, end: str
) -> None:
    """The first rule that holds gives the component at its limit, and what helps."""
    verdict = monitor_of(utilization, SEVERAL_PROCESSES, engines_use_cpus=engines_use_cpus).verdict

    assert verdict.startswith(beginning)
    assert verdict.endswith(end)


def test_the_verdict_has_the_figures() -> None:
    """The sentence has the number and the utilization of every component that the service has."""
    utilization = Utilization(engine=0.31, decode=0.97, http_worker=0.4, batcher=0.02, cpu=0.5)

    assert monitor_of(utilization, SEVERAL_PROCESSES).verdict == (
        "decode-bound: 2 engines at 31%, 12 decode threads at 97%, 4 HTTP workers at 40%, 1 batcher at 2%, "
        "16 CPUs at 50%: more HTTP workers"
    )
    assert "batcher" not in monitor_of(Utilization()).verdict


def test_utilization_is_that_of_the_window() -> None:
    """Readings before the window do not count; with fewer readings, the time between two counts."""
    monitor = UtilizationMonitor(ONE_PROCESS, engines_use_cpus=False)
    for second in range(100):  # busy at first, then idle for as long as the window is
        monitor.record(float(second), BusySeconds(engine=float(min(second, 99 - WINDOW_SECONDS))))
    recent = monitor.utilization
    monitor.record(199.0, BusySeconds(engine=99.0 - WINDOW_SECONDS + 50))

    assert recent.engine == 0
    assert monitor.utilization.engine == pytest.approx(0.5)


def test_utilization_is_at_most_1() -> None:
    """A batch counts when it ends, and can be longer than the window."""
    assert monitor_of(Utilization(engine=20.0)).utilization.engine == 1


def test_utilization_is_0_before_two_readings() -> None:
    """Two readings at the same time count as one."""
    monitor = UtilizationMonitor(ONE_PROCESS, engines_use_cpus=True)
    before = monitor.utilization
    monitor.record(5.0, BusySeconds(engine=1))
    monitor.record(5.0, BusySeconds(engine=2))

    assert (before, monitor.utilization) == (Utilization(), Utilization())


def test_busy_seconds_come_from_the_metrics_of_all_processes() -> None:
    """Engines, decode threads, the two kinds of event loops and CPU time are added up."""
    batcher, http_worker = Metrics("batcher"), Metrics()
    for engine, seconds in enumerate((1.0, 2.0)):
        batcher.engine_busy_seconds.labels(engine).inc(seconds)
    http_worker.decode_busy_seconds.inc(4)
    of_processes = [batcher.counts(), http_worker.counts(), http_worker.counts()]
    found = total(*map(busy_seconds, of_processes))

    assert (found.engine, found.decode) == (3, 8)
    assert 0 < found.batcher < found.http_worker < found.cpu
