"""Tests of `app/observability/statistics.py`."""

from typing import Any

import pytest

from app import errors
from app.observability.metrics import Metrics
from app.observability.statistics import statistics


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (errors.EngineFailed, 1),
        (errors.DeadlineExceeded, 1),
        (errors.Overloaded, 1),
        (errors.UnreadableImage, 1),
        (errors.InvalidBody, 1),
        (errors.Unauthorized, 0),
        (errors.UnknownModel, 0),
        (errors.MalformedRequest, 0),
        (errors.NotSupported, 0),
        (errors.TooManyConnections, 0),
        (errors.TooManyCalls, 0),
    ],
)
def test_only_errors_of_its_requests_are_failures_of_the_model(error: type[Any], failed: int) -> None:
    """A request that was refused before its model was known is not a failure of the model."""
    metrics = Metrics()
    metrics.rejected.labels(error.code).inc()

    assert statistics(metrics.counts(), metrics.batch_times).failed == failed
