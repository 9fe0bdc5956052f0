"""`app/observability/utilization.py`: how busy each part was, and what is said of it."""

import pytest

from app.observability.metrics import Metrics
from app.observability.utilization import WINDOW_SECONDS, Parts, Watch, busy, together

ONE = Parts(engine=1, decode=4, http_worker=1, cpu=2)
"""Of a service that is one process on two CPUs."""

SEVERAL = Parts(engine=2, decode=12, http_worker=4, queue=1, cpu=16)


def watch_of(shares: Parts, there_are: Parts = ONE, *, engines_use_cpus: bool = False) -> Watch:
    """After a second in which each part was as busy as this."""
    watch = Watch(there_are, engines_use_cpus=engines_use_cpus)
    watch.read(100.0, Parts())
    watch.read(101.0, Parts(*(share * count for share, count in zip(shares, there_are, strict=True))))
    return watch


@pytest.mark.parametrize(
    ("shares", "engines_use_cpus", "beginning", "end"),
    [
        (Parts(engine=0.97, decode=0.9, cpu=0.95), True, "CPU-bound: ", ": an int8 bundle, or more CPUs"),
        (Parts(engine=0.3, decode=0.9, cpu=0.95), True, "CPU-bound: ", ": decode=fast, smaller images, or more CPUs"),
        (Parts(engine=0.97, decode=0.9, cpu=0.95), False, "engine-bound: ", "or a bundle of lower precision"),
        (Parts(engine=0.9, cpu=0.5), True, "engine-bound: ", ": more threads or engines"),
        (Parts(engine=0.3, queue=0.9, decode=0.9), False, "queue-bound: ", ": another service beside this one"),
        (
            Parts(engine=0.3, decode=0.97, cpu=0.95),
            False,
            "decode-bound: ",
            ": more CPUs, decode=fast, or smaller images",
        ),
        (Parts(engine=0.3, decode=0.97, cpu=0.5), False, "decode-bound: ", ": more HTTP workers"),
        (Parts(engine=0.3, http_worker=0.9, cpu=0.6), False, "HTTP worker-bound: ", ": more HTTP workers"),
        (Parts(engine=0.3, http_worker=0.5, cpu=0.95), False, "CPU-bound: ", ": more CPUs"),
        (Parts(engine=0.3, http_worker=0.5, cpu=0.5), True, "nothing is at its limit: ", "at 50%"),
        (Parts(), True, "nothing is at its limit: ", "at 0%"),
    ],
)
def test_what_is_at_its_limit_is_named(shares: Parts, *, engines_use_cpus: bool, beginning: str, end: str) -> None:
    """By the first rule that holds, with what helps."""
    verdict = watch_of(shares, SEVERAL, engines_use_cpus=engines_use_cpus).verdict

    assert verdict.startswith(beginning)
    assert verdict.endswith(end)


def test_the_sentence_has_the_figures() -> None:
    """Of all parts that there are, how many of them and how busy."""
    shares = Parts(engine=0.31, decode=0.97, http_worker=0.4, queue=0.02, cpu=0.5)

    assert watch_of(shares, SEVERAL).verdict == (
        "decode-bound: 2 engines at 31%, 12 decode threads at 97%, 4 HTTP workers at 40%, 1 queue at 2%, 16 CPUs at 50%: "
        "more HTTP workers"
    )
    assert "queue" not in watch_of(Parts()).verdict


def test_shares_are_of_the_last_seconds() -> None:
    """What was long ago does not count; between two looks that are further apart, all does."""
    watch = Watch(ONE, engines_use_cpus=False)
    for second in range(100):  # busy all the time at first, and idle for as long as the window is
        watch.read(float(second), Parts(engine=float(min(second, 99 - WINDOW_SECONDS))))
    recent = watch.shares
    watch.read(199.0, Parts(engine=99.0 - WINDOW_SECONDS + 50))

    assert recent.engine == 0
    assert watch.shares.engine == pytest.approx(0.5)


def test_a_long_batch_is_not_more_than_all_of_the_time() -> None:
    """It counts when it ends: an engine is busy at most."""
    assert watch_of(Parts(engine=20.0)).shares.engine == 1


def test_before_two_readings_nothing_is_known() -> None:
    """Nor with two at one moment."""
    watch = Watch(ONE, engines_use_cpus=True)
    before = watch.shares
    watch.read(5.0, Parts(engine=1))
    watch.read(5.0, Parts(engine=2))

    assert (before, watch.shares) == (Parts(), Parts())


def test_seconds_come_from_the_metrics_of_all_processes() -> None:
    """Engines one by one, decoding, the loops by what they are for, and CPU time."""
    queue, http_worker = Metrics("queue"), Metrics()
    for engine, seconds in enumerate((1.0, 2.0)):
        queue.engine_busy_seconds.labels(engine).inc(seconds)
    http_worker.decode_busy_seconds.inc(4)
    found = together(busy(queue.counts()), busy(http_worker.counts()), busy(http_worker.counts()))

    assert (found.engine, found.decode) == (3, 8)
    assert 0 < found.queue < found.http_worker < found.cpu
