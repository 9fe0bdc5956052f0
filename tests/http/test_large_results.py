"""Tests of results with many classes: they are the same, whether the event loop or a thread writes them."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.bundle.load import Bundle
from app.classification import classifier
from app.main import create_app
from app.settings import Settings


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    """A client of a service with the demonstration bundle."""
    with TestClient(create_app(Settings(device="cpu", threads=1))) as client:
        yield client


def requests(demo: Bundle) -> dict[str, dict[str, Any]]:
    """Return a request for all classes by the path of its route."""
    images = [(demo.folder / "golden" / f"{name}.png").read_bytes() for name in ("two", "seven")]
    raw = {"content": images[1]}
    classes = {
        "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [9] * (32 * 32 * 3)}],
        "outputs": [{"name": "logits", "parameters": {"classification": 10}}],
    }
    return {
        "/classify?top_k=10": raw,
        "/classify/batch?top_k=10": {"files": [("files", image) for image in images]},
        "/models/digits": raw,
        "/v2/models/digits/infer": {"json": classes},
    }


def test_a_thread_writes_the_same(client: TestClient, demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every route returns the same bytes from a thread as from the event loop."""
    on_the_loop = {path: client.post(path, **request) for path, request in requests(demo).items()}
    monkeypatch.setattr(classifier, "SMALL_RESULT", 0)
    in_a_thread = {path: client.post(path, **request) for path, request in requests(demo).items()}

    assert {answer.status_code for answer in on_the_loop.values()} == {200}
    assert {path: answer.content for path, answer in in_a_thread.items()} == {
        path: answer.content for path, answer in on_the_loop.items()
    }
