"""The metrics of several processes as those of one service.

Knows no single metric: samples are merged by the type of their metric.
"""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from app.observability.metrics import Counts

__all__ = ["CONTENT_TYPE_LATEST", "exposition", "merge", "totals"]

# The ends of the names of samples that hold a point in time, not an amount.
TIME_SUFFIXES = ("_created", "start_time_seconds")


def exposition(*of_processes: Counts) -> bytes:
    """Return the metrics of one or several processes as one text of type `CONTENT_TYPE_LATEST`."""
    return generate_latest(_Collected(merge(of_processes)))


def merge(of_processes: Iterable[Counts]) -> Counts:
    """Return the metrics of several processes as those of one.

    Values are added, with two exceptions. Of points in time, the earliest counts. Of info metrics,
    those of the first process count.
    """
    families: dict[str, Metric] = {}
    samples: dict[str, dict[Any, Sample]] = {}
    for counts in of_processes:
        for family in counts:
            if family.type == "info" and family.name in families:
                continue
            families.setdefault(family.name, family)
            merged = samples.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, *sorted(sample.labels.items()))
                merged[key] = _merge_samples(merged[key], sample) if key in merged else sample
    return [_with_samples(family, samples[name].values()) for name, family in families.items()]


def totals(counts: Counts) -> Counts:
    """Return the counters and histograms only: those that outlive their process."""
    return [family for family in counts if family.type in {"counter", "histogram"}]


def _merge_samples(one: Sample, other: Sample) -> Sample:
    combine: Callable[[Iterable[float]], float] = min if one.name.endswith(TIME_SUFFIXES) else sum
    return one._replace(value=combine((one.value, other.value)))


def _with_samples(family: Metric, samples: Iterable[Sample]) -> Metric:
    metric = Metric(family.name, family.documentation, family.type)
    metric.samples = list(samples)
    return metric


class _Collected(Collector):
    """A collector of metrics that have already been collected."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Counts:
        return self._counts
