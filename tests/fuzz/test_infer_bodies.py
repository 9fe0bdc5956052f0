"""Damaged requests for inference end in outputs or in an error of the client. `make fuzz` tries many more of them."""

import json
from collections import Counter

import pytest

from tests.fuzz import infer_bodies
from tests.fuzz.infer_bodies import Outcome, Reply, judge

# Requests, each of which is sent twice. They take half a minute of CPU time.
COUNT = 6000


@pytest.fixture(scope="module")
def attempts() -> tuple[list[Outcome], int]:
    """Return the outcomes of all requests, and the peak memory of the process in bytes."""
    return infer_bodies.attack_in_another_process(seed=1, count=COUNT)


def test_damaged_requests_get_outputs_or_an_error_of_the_client(attempts: tuple[list[Outcome], int]) -> None:
    """No request gets a 500 or the outputs of another one, and the memory stays bounded."""
    outcomes, memory = attempts

    assert [outcome for outcome in outcomes if outcome.is_finding] == []
    assert len(outcomes) == COUNT
    assert memory < infer_bodies.MAX_MEMORY


@pytest.mark.parametrize("form", sorted({form.__name__ for form in infer_bodies.FORMS}))
def test_some_requests_of_each_form_succeed_and_some_fail(form: str, attempts: tuple[list[Outcome], int]) -> None:
    """The damage is neither too small nor too large to find anything."""
    results = Counter(outcome.result for outcome in attempts[0] if outcome.kind == form)

    assert results["200"] > 50
    assert results.total() - results["200"] > 50


def reply_of(logit: float, status: int = 200) -> Reply:
    """Return a response with one logit."""
    document = {"outputs": [{"name": "logits", "datatype": "FP32", "shape": [1], "data": [logit]}], "code": "c"}
    return Reply(status, {}, json.dumps(document).encode())


@pytest.mark.parametrize(
    ("among_others", "is_finding"),
    [(reply_of(1.0), False), (reply_of(2.0), True), (reply_of(1.0, 500), True), (reply_of(1.0, 400), True)],
)
def test_a_wrong_response_is_a_finding(among_others: Reply, is_finding: bool) -> None:  # noqa: FBT001 (pytest passes it by name)
    """Other outputs, another status and a failure of the service are found."""
    assert judge(0, "", among_others, reply_of(1.0)).is_finding == is_finding
