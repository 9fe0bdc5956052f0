"""`app/local_model.py`: a model in this process."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.bundle.load import Bundle
from app.classification.classifier import Classification
from app.errors import BundleError, DeadlineExceeded, Draining, InvalidParameter, UnsupportedImage
from app.local_model import LocalModel, open_model
from app.main import create_app
from app.settings import Settings
from tests.support.engines import FailingSession, Gate, HeldSession
from tests.support.waiting import HANG_SECONDS, until

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs/how-to/python.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def model() -> Iterator[LocalModel]:
    """The demonstration bundle in this process."""
    with open_model(device="cpu", threads=1) as model:
        yield model


@pytest.fixture
def gate(model: LocalModel) -> Iterator[Gate]:
    """The gate at which every batch of `model` waits."""
    gate = Gate()
    (engine,) = model._backend.engines  # noqa: SLF001 (the engine is not public)
    engine._session = HeldSession(engine._session, gate)  # noqa: SLF001
    yield gate
    gate.open(100)


def images(bundle: Bundle) -> list[bytes]:
    """Return the golden images."""
    return list(bundle.golden_images.values())


def test_it_answers_as_the_service_does(model: LocalModel, demo: Bundle) -> None:
    """Classes, labels and scores of each golden image are those of `POST /classify`."""
    with TestClient(create_app(Settings(device="cpu", threads=1))) as client:
        for image in images(demo):
            served = client.post("/classify?top_k=10", content=image).json()["predictions"]
            answer = model.classify(image, 10).predictions
            assert [(one.index, one.label) for one in answer] == [(one["index"], one["label"]) for one in served]
            assert [one.score for one in answer] == pytest.approx([one["score"] for one in served], abs=1e-6)


@pytest.mark.parametrize("index", [None, 3])
def test_it_draws_evidence_as_the_service_does(model: LocalModel, demo: Bundle, index: int | None) -> None:
    """The picture for the best class, or for a given one, is that of `POST /classify`."""
    image = images(demo)[0]
    with TestClient(create_app(Settings(device="cpu", threads=1))) as client:
        chosen = "" if index is None else f"&class={index}"
        served = client.post(f"/classify?evidence=true&format=png{chosen}", content=image)
    drawn = model.draw_evidence(image, index)

    assert drawn.png == served.content
    assert str(drawn.index) == served.headers["X-Class-Index"]


def test_evidence_for_no_class_is_refused(model: LocalModel, demo: Bundle) -> None:
    """An index beyond the classes is an error of the service; one below zero is an error of the caller."""
    with pytest.raises(InvalidParameter, match="There is no class 10"):
        model.draw_evidence(images(demo)[0], 10)
    with pytest.raises(ValueError, match="index is -1, and classes are numbered from 0"):
        model.draw_evidence(images(demo)[0], -1)


def test_the_number_of_classes_is_a_setting(demo: Bundle) -> None:
    """Without `top_k`, the setting of that name decides."""
    with open_model(device="cpu", threads=1, top_k=3) as model:
        assert len(model.classify(images(demo)[0]).predictions) == 3


def test_the_embedding_is_returned_on_request(model: LocalModel, demo: Bundle) -> None:
    """It has one value for each channel of the last layer."""
    embedding = model.classify(images(demo)[0], embedding=True).embedding

    assert embedding is not None
    assert embedding.shape == (demo.head.weight.shape[1],)
    assert model.classify(images(demo)[0]).embedding is None


def test_the_bundle_can_be_a_string(demo: Bundle) -> None:
    """The folder may be a string, and wins over the environment variable."""
    with open_model(str(demo.folder), device="cpu", threads=1) as model:
        assert model.labels == demo.labels
        assert model.devices == ["cpu"]


def test_images_that_are_submitted_together_share_a_batch(model: LocalModel, gate: Gate, demo: Bundle) -> None:
    """While one batch runs, the images that arrive wait for the next one."""
    first = model.submit(images(demo)[0])
    gate.wait_until_entered()
    others = [model.submit(image) for image in images(demo)[1:5]]
    until(lambda: model._backend.batcher.waiting == 4)  # noqa: SLF001 (the queue is not public)
    gate.open(2)

    assert [len(one.result(HANG_SECONDS).predictions) for one in (first, *others)] == [5] * 5
    assert gate.batches == [1, 4]


def test_a_file_that_is_no_image_is_an_error(model: LocalModel) -> None:
    """The error is that of the service."""
    with pytest.raises(UnsupportedImage):
        model.classify(b"not an image")


@pytest.mark.parametrize("top_k", [0, -1])
def test_less_than_one_class_is_refused(model: LocalModel, top_k: int) -> None:
    """It is an error of the caller, so no future is returned."""
    with pytest.raises(ValueError, match=f"top_k is {top_k}, and must be at least 1"):
        model.submit(b"", top_k)


def test_a_timeout_ends_the_wait(model: LocalModel, gate: Gate, demo: Bundle) -> None:
    """An image that waits behind a batch for longer than its timeout fails."""
    model.submit(images(demo)[0])
    gate.wait_until_entered()

    with pytest.raises(DeadlineExceeded):
        model.classify(images(demo)[1], timeout=0.05)


def test_a_cancelled_image_is_not_run(model: LocalModel, gate: Gate, demo: Bundle) -> None:
    """The others of its batch get their results."""
    running = model.submit(images(demo)[0])
    gate.wait_until_entered()
    kept, cancelled = model.submit(images(demo)[1]), model.submit(images(demo)[2])
    until(lambda: model._backend.batcher.waiting == 2)  # noqa: SLF001 (the queue is not public)
    assert cancelled.cancel()
    until(lambda: model._backend.batcher.waiting == 1)  # noqa: SLF001
    gate.open(2)

    assert running.result(HANG_SECONDS)
    assert kept.result(HANG_SECONDS)
    assert gate.batches == [1, 1]
    with pytest.raises(CancelledError):
        cancelled.result()


def test_close_finishes_what_was_submitted(model: LocalModel, gate: Gate, demo: Bundle) -> None:
    """Images that were submitted before `close` get their results, and later ones are refused."""
    submitted = [model.submit(image) for image in images(demo)]
    gate.wait_until_entered()
    closing = threading.Thread(target=model.close)
    closing.start()
    until(lambda: not model.is_ready)
    refused = model.submit(images(demo)[0])
    gate.open(100)
    closing.join(HANG_SECONDS)

    assert all(one.result(HANG_SECONDS).predictions for one in submitted)
    with pytest.raises(Draining):
        refused.result(HANG_SECONDS)
    with pytest.raises(Draining):
        model.draw_evidence(images(demo)[0])


def test_close_does_not_wait_forever(demo: Bundle) -> None:
    """An image that takes longer than `drain_timeout` fails, and `close` returns."""
    model = open_model(device="cpu", threads=1, drain_timeout=0.05)
    gate = Gate()
    (engine,) = model._backend.engines  # noqa: SLF001 (the engine is not public)
    engine._session = HeldSession(engine._session, gate)  # noqa: SLF001
    submitted = [model.submit(image) for image in images(demo)]
    gate.wait_until_entered()
    model.close()
    gate.open()

    assert [type(each.exception(0)) for each in submitted] == [Draining] * len(submitted)


@pytest.mark.parametrize("method", ["classify", "draw_evidence", "close"])
def test_a_callback_cannot_wait_for_the_model(model: LocalModel, gate: Gate, demo: Bundle, method: str) -> None:
    """Callbacks run in the thread of the model. Waiting there is an error, and the model goes on."""
    outcome = Future[object]()
    arguments = () if method == "close" else (images(demo)[1],)

    def wait(_: Future[Classification]) -> None:
        try:
            outcome.set_result(getattr(model, method)(*arguments))
        except RuntimeError as error:
            outcome.set_exception(error)

    held = model.submit(images(demo)[0])
    gate.wait_until_entered()
    held.add_done_callback(wait)
    gate.open(100)

    with pytest.raises(RuntimeError, match="cannot wait for it"):
        outcome.result(HANG_SECONDS)
    assert model.classify(images(demo)[0]).predictions


def test_close_ends_the_threads(demo: Bundle) -> None:
    """No thread of the model is left after `close`, and a second `close` does nothing."""
    before = set(threading.enumerate())
    model = open_model(device="cpu", threads=1)
    model.classify(images(demo)[0])
    model.close()
    model.close()

    until(lambda: set(threading.enumerate()) <= before)


def test_a_model_that_does_not_open_leaves_no_thread(tmp_path: Path) -> None:
    """A folder that is no bundle is an error of one sentence."""
    before = set(threading.enumerate())

    with pytest.raises(BundleError):
        open_model(tmp_path)
    assert set(threading.enumerate()) <= before


def test_a_wrong_setting_is_an_error() -> None:
    """A setting that does not exist, or a value out of range, is a ValueError that names it."""
    with pytest.raises(ValueError, match="max_batch"):
        open_model(max_batch=0)
    with pytest.raises(ValueError, match="max_bach"):
        open_model(max_bach=8)


def test_a_model_without_engines_is_broken(model: LocalModel, demo: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure, the engine is restarted; if that fails too, the model is neither ready nor usable."""
    assert model.is_ready
    assert not model.is_broken
    monkeypatch.setattr("app.inference.pool.open_verified", fails)
    (engine,) = model._backend.engines  # noqa: SLF001 (the engine is not public)
    engine._session = FailingSession(engine._session, "exception")  # noqa: SLF001
    assert model.submit(images(demo)[0]).exception(HANG_SECONDS)

    until(lambda: model.is_broken)
    assert not model.is_ready


def fails(*_: object, **__: object) -> None:
    """Fail as a device that is gone."""
    raise BundleError("the bundle is gone")


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_guide_run(
    example: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each block of Python in the guide runs in a clone, and recognizes the seven."""
    monkeypatch.chdir(ROOT)
    exec(compile(example, str(GUIDE), "exec"), {"__name__": "example"})  # noqa: S102 (text of this repository)

    assert "seven" in capsys.readouterr().out
