"""Tests of the threads of `Decoder`: what they hold, and what does not wait for what."""

import asyncio
import weakref
from collections.abc import AsyncIterator

import numpy as np
import pytest

from app.classification.classifier import Classifier
from app.main import create_app
from app.settings import Settings
from tests.references.draw import draw_picture
from tests.support.engines import Gate
from tests.support.images import encode

pytestmark = pytest.mark.anyio


class Document:
    """A document that a weak reference can watch."""


@pytest.fixture
async def served() -> AsyncIterator[Classifier]:
    """The classifier of the demonstration bundle, with one decode thread."""
    app = create_app(Settings(device="cpu", threads=1, decode_threads=1))
    async with app.router.lifespan_context(app):
        yield app.state.service.classifier


async def test_a_cancelled_document_is_freed(served: Classifier) -> None:
    """The memory of a document that waits is free once its request is cancelled, though the thread is busy."""
    gate, document = Gate(), Document()
    running = asyncio.create_task(served.decoder.document(gate, [np.zeros(1)]))
    await asyncio.to_thread(gate.wait_until_entered)
    waiting = asyncio.create_task(served.decoder.document(id, document))
    await asyncio.sleep(0)
    watched = weakref.ref(document)
    del document
    waiting.cancel()
    await asyncio.wait([waiting])
    del waiting

    assert watched() is None
    gate.open()
    await running


async def test_images_do_not_wait_for_documents(served: Classifier) -> None:
    """An image is decoded while a document is, also with one decode thread."""
    gate = Gate()
    running = asyncio.create_task(served.decoder.document(gate, [np.zeros(1)]))
    await asyncio.to_thread(gate.wait_until_entered)

    assert len((await served.classify(encode(draw_picture(300, 300)), 1)).predictions) == 1
    assert served.decoder.in_progress == 1
    gate.open()
    await running
