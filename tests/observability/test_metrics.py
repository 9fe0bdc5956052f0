"""`app/metrics.py`: the counts of several processes as if they were one."""

import pickle

from prometheus_client.parser import text_string_to_metric_families

from app.observability.metrics import Metrics, exposition, totals


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Value by name and labels; each of them stands there once."""
    found = [
        ((sample.name, frozenset(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    ]
    assert len(found) == len(dict(found))
    return dict(found)


def value(text: bytes, name: str, /, **labels: str) -> float:
    """Of one sample."""
    return samples(text)[name, frozenset(labels.items())]


def busy(seconds: float, *, depth: int) -> Metrics:
    """Of a process that has answered one request."""
    metrics = Metrics()
    metrics.observe_request("/classify", 200, seconds)
    metrics.queue_depth.set(depth)
    return metrics


def test_counts_of_several_processes_add_up() -> None:
    """Counters, histograms bucket by bucket, and depths; also after the way from another process."""
    one, other = busy(0.002, depth=1), busy(0.2, depth=2)
    text = exposition(one.counts(), pickle.loads(pickle.dumps(other.counts())))  # noqa: S301 (made here)

    assert value(text, "swin_requests_total", route="/classify", code="200") == 2
    assert value(text, "swin_request_seconds_bucket", route="/classify", le="0.0025") == 1
    assert value(text, "swin_request_seconds_bucket", route="/classify", le="+Inf") == 2
    assert value(text, "swin_queue_depth") == 3


def test_what_is_said_and_not_counted_is_the_first_process_s() -> None:
    """Device and model are those of the process that has the engines; others know none."""
    one = busy(0.002, depth=0)
    one.model.info({"name": "swin"})
    text = exposition(one.counts(), Metrics().counts())

    assert value(text, "swin_model_info", name="swin") == 1
    assert ("swin_model_info", frozenset[tuple[str, str]]()) not in samples(text)


def test_beginnings_are_the_earliest() -> None:
    """When a process started is a time: two of them are not added."""
    one = busy(0.002, depth=0).counts()
    text, alone = exposition(one, one), exposition(one)

    assert value(text, "process_start_time_seconds") == value(alone, "process_start_time_seconds")


def test_what_remains_of_a_process_is_what_only_grows() -> None:
    """Requests it answered stay counted; what waited in it does not wait any more."""
    one = busy(0.002, depth=5)
    text = exposition(Metrics().counts(), totals(one.counts()))

    assert value(text, "swin_requests_total", route="/classify", code="200") == 1
    assert value(text, "swin_queue_depth") == 0
