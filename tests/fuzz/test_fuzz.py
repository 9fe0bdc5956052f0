"""Decoding holds its word whatever the bytes are; `make fuzz` tries many more of them."""

from collections import Counter

import pytest

from app.images.decode import FORMATS
from tests.fuzz import decoding

# Half a minute on two slow cores.
COUNT = 40_000


@pytest.fixture(scope="module")
def attempts() -> tuple[list[decoding.Outcome], int]:
    """Outcomes, and the memory they took."""
    return decoding.run(seed=1, count=COUNT, processes=2)


def test_damaged_images_come_to_pixels_or_to_an_error_of_ours(attempts: tuple[list[decoding.Outcome], int]) -> None:
    """Nothing else leaves decoding, none takes seconds, no decoder ends the process, and memory stays bounded."""
    outcomes, memory = attempts

    assert [outcome for outcome in outcomes if outcome.is_finding] == []
    assert len(outcomes) == COUNT
    assert memory < decoding.MAX_MEMORY


@pytest.mark.parametrize("kind", FORMATS)
def test_the_damage_is_neither_none_nor_total(kind: str, attempts: tuple[list[decoding.Outcome], int]) -> None:
    """Of each format some inputs still decode and some are refused in different ways: all of the code is reached."""
    results = Counter(outcome.result for outcome in attempts[0] if outcome.kind == kind)

    assert results["pixels"] > 50
    assert len(results) >= 3
    assert results.total() - results["pixels"] > 50


def test_a_dead_process_is_a_finding_and_its_work_is_taken_over() -> None:
    """What a decoder crashed on is known by its number."""
    worker = decoding.Worker(0, range(3, 9, 2))
    worker._process.kill()  # noqa: SLF001 (as a decoder would)
    outcome, left = worker.died_of()

    assert (outcome.is_finding, "ended with -9" in outcome.result) == (True, True)
    assert list(left) == list(range(outcome.number + 2, 9, 2))
