"""Counts and times of inference since the start, computed from the metrics. Knows no protocol."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from prometheus_client.samples import Sample

from app.errors import (
    DeadlineExceeded,
    EngineFailed,
    ImageTooLarge,
    InvalidBody,
    InvalidParameter,
    NotReady,
    Overloaded,
    UnreadableImage,
    UnsupportedEncoding,
    UnsupportedImage,
)
from app.observability.batch_times import BatchTimes, Duration
from app.observability.metrics import Counts

# The codes of errors that requests for a model can have. The metric of refusals names no model, so that an invalid
# request for the index counts, too. Other errors come before the model is known, as those of requests without a key.
FAILURES = frozenset(
    error.code
    for error in (
        InvalidBody,
        ImageTooLarge,
        UnsupportedImage,
        UnsupportedEncoding,
        UnreadableImage,
        InvalidParameter,
        Overloaded,
        NotReady,
        DeadlineExceeded,
        EngineFailed,
    )
)


class Statistics(NamedTuple):
    """What the service has inferred since its start."""

    images: int  # classified images
    failed: int  # images and requests of the model that ended in an error
    stages: Mapping[str, Duration]  # by name of the stage, for one image
    batches: Mapping[int, Duration]  # by size
    last_at: float  # end of the last batch, in seconds since the epoch; 0: none


def statistics(counts: Counts, batches: BatchTimes) -> Statistics:
    """Return the statistics of a service from the metrics of all its processes."""
    samples = {family.name: family.samples for family in counts}
    seconds = _by_label(samples.get("swin_stage_seconds", ()), "swin_stage_seconds_sum", "stage")
    numbers = _by_label(samples.get("swin_stage_seconds", ()), "swin_stage_seconds_count", "stage")
    stages = {stage: Duration(int(number), seconds[stage]) for stage, number in numbers.items()}
    refused = _by_label(samples.get("swin_rejected", ()), "swin_rejected_total", "reason")
    failed = sum(number for reason, number in refused.items() if reason in FAILURES)
    images = stages["infer"].events if "infer" in stages else 0
    return Statistics(images, int(failed), stages, dict(batches.by_size), batches.last_at)


def _by_label(samples: Iterable[Sample], name: str, label: str) -> dict[str, float]:
    return {sample.labels[label]: sample.value for sample in samples if sample.name == name}
