"""`app/observability/aggregation.py`: the metrics of several processes as those of one."""

import pickle

from prometheus_client.parser import text_string_to_metric_families

from app.observability.aggregation import exposition, totals
from app.observability.metrics import Metrics


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the values by name and labels; each occurs once."""
    found = [
        ((sample.name, frozenset(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    ]
    assert len(found) == len(dict(found))
    return dict(found)


def value(text: bytes, name: str, /, **labels: str) -> float:
    """Return the value of one sample."""
    return samples(text)[name, frozenset(labels.items())]


def after_one_request(seconds: float, *, depth: int) -> Metrics:
    """Return the metrics of a process that has answered one request."""
    metrics = Metrics()
    metrics.observe_request("/classify", 200, seconds)
    metrics.queue_depth.set(depth)
    return metrics


def test_counts_of_several_processes_add_up() -> None:
    """Counters, histogram buckets and gauges are added, also after pickling."""
    one, other = after_one_request(0.002, depth=1), after_one_request(0.2, depth=2)
    text = exposition(one.counts(), pickle.loads(pickle.dumps(other.counts())))  # noqa: S301 (made here)

    assert value(text, "swin_requests_total", route="/classify", code="200") == 2
    assert value(text, "swin_request_seconds_bucket", route="/classify", le="0.0025") == 1
    assert value(text, "swin_request_seconds_bucket", route="/classify", le="+Inf") == 2
    assert value(text, "swin_queue_depth") == 3


def test_info_metrics_are_those_of_the_first_process() -> None:
    """Only the process that has the engines describes devices and model."""
    one = after_one_request(0.002, depth=0)
    one.model.info({"name": "swin"})
    text = exposition(one.counts(), Metrics().counts())

    assert value(text, "swin_model_info", name="swin") == 1
    assert ("swin_model_info", frozenset[tuple[str, str]]()) not in samples(text)


def test_start_times_are_the_earliest() -> None:
    """A start time is a point in time, so two of them are not added."""
    one = after_one_request(0.002, depth=0).counts()
    text, alone = exposition(one, one), exposition(one)

    assert value(text, "process_start_time_seconds") == value(alone, "process_start_time_seconds")


def test_counters_outlive_their_process() -> None:
    """Requests of a process that has ended stay counted, and its gauges are dropped."""
    one = after_one_request(0.002, depth=5)
    text = exposition(Metrics().counts(), totals(one.counts()))

    assert value(text, "swin_requests_total", route="/classify", code="200") == 1
    assert value(text, "swin_queue_depth") == 0
