"""Decoding of damaged images ends in pixels or an error. `make fuzz` tries many more images."""

from collections import Counter

import pytest

from app.images.decode import FORMATS
from tests.fuzz import decoding

# Inputs, which take half a minute on two slow cores.
COUNT = 40_000


@pytest.fixture(scope="module")
def attempts() -> tuple[list[decoding.Outcome], int]:
    """Return the outcomes, and the peak memory of a process in bytes."""
    return decoding.run(seed=1, count=COUNT, processes=2)


def test_damaged_images_give_pixels_or_a_service_error(attempts: tuple[list[decoding.Outcome], int]) -> None:
    """Damaged images give pixels or a `ServiceError`, without a crash, in bounded time and memory."""
    outcomes, memory = attempts

    assert [outcome for outcome in outcomes if outcome.is_finding] == []
    assert len(outcomes) == COUNT
    assert memory < decoding.MAX_MEMORY


@pytest.mark.parametrize("kind", FORMATS)
def test_some_damaged_images_decode_and_some_do_not(kind: str, attempts: tuple[list[decoding.Outcome], int]) -> None:
    """Some inputs of each format still decode, and some are refused with different errors."""
    results = Counter(outcome.result for outcome in attempts[0] if outcome.kind == kind)

    assert results["pixels"] > 50
    assert len(results) >= 3
    assert results.total() - results["pixels"] > 50


def test_a_dead_process_is_a_finding_and_its_work_goes_on() -> None:
    """A crash is a finding with the number of its input, and the inputs after it are left."""
    worker = decoding.Worker(0, range(3, 9, 2))
    worker._process.kill()  # noqa: SLF001 (stands for a crash of a decoder)
    outcome, left = worker.crash()

    assert (outcome.is_finding, "ended with -9" in outcome.result) == (True, True)
    assert list(left) == list(range(outcome.number + 2, 9, 2))
