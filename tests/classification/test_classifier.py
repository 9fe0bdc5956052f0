"""Tests of large results of `Classifier`, which threads write."""

import threading
from collections.abc import AsyncIterator

import pytest

from app.classification import classifier
from app.classification.classifier import Classifier
from app.errors import DeadlineExceeded
from app.main import create_app
from app.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def served() -> AsyncIterator[Classifier]:
    """The classifier of the demonstration bundle, with one decode thread."""
    app = create_app(Settings(device="cpu", threads=1, decode_threads=1))
    async with app.router.lifespan_context(app):
        yield app.state.service.classifier


async def test_a_large_result_is_written_in_a_thread(served: Classifier) -> None:
    """Up to `SMALL_RESULT` values, a result is written on the event loop, and above in the decode pool."""

    def name() -> str:
        return threading.current_thread().name

    assert await served.write(name, classifier.SMALL_RESULT) == name()
    assert await served.write(name, classifier.SMALL_RESULT + 1) == "decode_0"


async def test_writing_ends_at_the_deadline(served: Classifier) -> None:
    """A result that is not written before the deadline is an error."""
    with pytest.raises(DeadlineExceeded):
        await served.write(lambda: None, classifier.SMALL_RESULT + 1, deadline=0)
