"""Counts and times of inference since the start, computed from the metrics. Knows no protocol."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from prometheus_client.samples import Sample

from app.observability.batch_times import BatchTimes, Duration
from app.observability.metrics import Counts


class Statistics(NamedTuple):
    """What the service has inferred since its start."""

    images: int  # classified images
    rejected: int  # images and requests that ended in an error
    stages: Mapping[str, Duration]  # by name of the stage, for one image
    batches: Mapping[int, Duration]  # by size
    last_at: float  # end of the last batch, in seconds since the epoch; 0: none


def statistics(counts: Counts, batches: BatchTimes) -> Statistics:
    """Return the statistics of a service from the metrics of all its processes."""
    samples = {family.name: family.samples for family in counts}
    seconds = _by_label(samples.get("swin_stage_seconds", ()), "swin_stage_seconds_sum", "stage")
    numbers = _by_label(samples.get("swin_stage_seconds", ()), "swin_stage_seconds_count", "stage")
    stages = {stage: Duration(int(number), seconds[stage]) for stage, number in numbers.items()}
    rejected = sum(_by_label(samples.get("swin_rejected", ()), "swin_rejected_total", "reason").values())
    images = stages["infer"].events if "infer" in stages else 0
    return Statistics(images, int(rejected), stages, dict(batches.by_size), batches.last_at)


def _by_label(samples: Iterable[Sample], name: str, label: str) -> dict[str, float]:
    return {sample.labels[label]: sample.value for sample in samples if sample.name == name}
