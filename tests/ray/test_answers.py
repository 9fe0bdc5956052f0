"""The deployment answers as the service does, over HTTP and to handles."""

import httpx
import pytest

from app.errors import DeadlineExceeded, UnsupportedImage
from benchmarks.load.images import Known
from tests.ray.cluster import Deployed
from tests.support.served import Served

pytest.importorskip("ray", reason="Ray is not installed; `make test-ray` runs these tests")


def test_http_answers_with_the_same_classes(deployed: Deployed, digits: list[Known]) -> None:
    """`POST /classify` through Ray's proxy returns the classes and scores of each digit."""
    answers = [httpx.post(f"{deployed.url}/classify", content=digit.data).json() for digit in digits]

    assert [digit.matches(answer["predictions"]) for digit, answer in zip(digits, answers, strict=True)] == [True] * 10


def test_handles_answer_with_the_same_classes(deployed: Deployed, digits: list[Known]) -> None:
    """`handle.classify.remote` returns the classes and scores of each digit."""
    pending = [deployed.handle.classify.remote(digit.data) for digit in digits]
    answers = [[vars(each) for each in response.result().predictions] for response in pending]

    assert [digit.matches(answer) for digit, answer in zip(digits, answers, strict=True)] == [True] * 10


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("POST", "/classify", b"no image"),
        ("POST", "/classify?top_k=0", b""),
        ("POST", "/classify", bytes(2**20 + 1)),
        ("GET", "/classify", b""),
        ("GET", "/v2/models/digits", b""),
        ("GET", "/health/ready", b""),
        ("GET", "/nothing", b""),
    ],
)
def test_routes_and_problems_are_those_of_the_service(
    deployed: Deployed, alone: Served, method: str, path: str, content: bytes
) -> None:
    """Status, type and content of an answer are those of a service without Ray."""
    answers = [httpx.request(method, f"{url}{path}", content=content) for url in (deployed.url, alone.url)]

    under_ray, expected = [(each.status_code, each.headers["content-type"], each.json()) for each in answers]
    assert under_ray == expected


def test_a_response_has_one_id(deployed: Deployed) -> None:
    """A response has one X-Request-ID, that of the request."""
    answer = httpx.get(f"{deployed.url}/health/live", headers={"X-Request-ID": "of-the-client"})

    assert answer.headers.get_list("x-request-id") == ["of-the-client"]


def test_a_handle_gets_the_error_of_the_service(deployed: Deployed) -> None:
    """A handle raises the error of `app/errors.py`, with its sentence."""
    with pytest.raises(UnsupportedImage, match="not an image"):
        deployed.handle.classify.remote(b"no image").result()


def test_a_handle_can_set_a_timeout(deployed: Deployed, digits: list[Known]) -> None:
    """An image that cannot be classified within the timeout raises `DeadlineExceeded`."""
    with pytest.raises(DeadlineExceeded):
        deployed.handle.classify.remote(digits[0].data, timeout=0).result()


def test_a_handle_can_ask_for_the_embedding(deployed: Deployed, digits: list[Known]) -> None:
    """`top_k` and `embedding` have the meaning of `LocalModel.classify`."""
    result = deployed.handle.classify.remote(digits[0].data, 1, embedding=True).result()

    assert (len(result.predictions), result.embedding.ndim) == (1, 1)


def test_an_engine_has_the_threads_that_ray_reserved(deployed: Deployed) -> None:
    """An engine has one thread for each of `num_cpus`, whatever the number of CPUs of the node."""
    engines = httpx.get(f"{deployed.url}/model").json()["engines"]

    assert [engine["threads"] for engine in engines] == [1]
