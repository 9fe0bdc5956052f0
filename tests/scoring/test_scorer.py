"""`app/scoring/scorer.py`: the rows are the answers of the service, and do not depend on how the work is split."""

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from app.bundle.load import Bundle
from app.bundle.manifest import MANIFEST
from app.errors import DeviceError
from app.inference.engine import Engine
from app.main import create_app
from app.scoring import scorer
from app.scoring.errors import ScoringFailed
from app.scoring.items import Item
from app.scoring.rows import Columns, schema
from app.scoring.scorer import Scorer
from app.settings import DEMO_BUNDLE, Settings
from tests.scoring.drawn import drawn
from tests.support.engines import engine_of
from tests.support.images import encode

SETTINGS = Settings(device="cpu", threads=1)
TEXT = b"<html>no image</html>"


@pytest.fixture
def items(demo: Bundle) -> list[Item]:
    """Return the golden images, drawn images and images that cannot be read."""
    contents = [*demo.golden_images.values(), *drawn(10), b"", TEXT, drawn(1)[0][:80]]
    return [Item(str(number), content=content) for number, content in enumerate(contents)]


def table(items: Sequence[Item], settings: Settings = SETTINGS, batch: int = 4, **columns: Any) -> pa.Table:
    with Scorer(settings, Columns(**columns), batch) as opened:
        return opened.table(items)


def sigmoid_bundle(folder: Path) -> Path:
    bundle = shutil.copytree(DEMO_BUNDLE, folder / "sigmoid")
    manifest = json.loads((bundle / MANIFEST).read_text()) | {"activation": "sigmoid"}
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    return bundle


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_rows_are_the_answers_of_the_service(items: list[Item], activation: str, tmp_path: Path) -> None:
    """Classes, scores, embedding and reasons are exactly those of `POST /classify`."""
    bundle = DEMO_BUNDLE if activation == "softmax" else sigmoid_bundle(tmp_path)
    settings = SETTINGS.model_copy(update={"bundle": bundle})
    rows = table(items, settings, batch=1, top_k=3, embedding=True).to_pylist()

    with TestClient(create_app(settings)) as client:
        for item, row in zip(items, rows, strict=True):
            answer = client.post("/classify?top_k=3&embedding=true", content=item.content).json()
            if row["error"] is None:
                assert row["top_k"] == answer["predictions"]
                assert row["embedding"] == answer["embedding"]
                assert {name: row[name] for name in ("index", "label", "score")} == answer["predictions"][0]
            else:
                assert row["error"] == answer["detail"]


@pytest.mark.parametrize("settings", [{"decode": "fast"}, {"formats": ("jpeg",)}, {"max_megapixels": 0.0001}])
def test_settings_of_images_apply(items: list[Item], settings: dict[str, Any]) -> None:
    """The settings that decide how images are read, and which, have the same effect as in the service."""
    changed = SETTINGS.model_copy(update=settings)
    rows = table(items[:3], changed, batch=1).to_pylist()

    with TestClient(create_app(changed)) as client:
        for item, row in zip(items[:3], rows, strict=True):
            answer = client.post("/classify", content=item.content).json()
            assert (row["error"], row["top_k"]) == (answer.get("detail"), answer.get("predictions"))


def test_a_batch_changes_no_class(items: list[Item]) -> None:
    """The classes of a batch are those of single images; scores agree to rounding."""
    alone, together = (table(items, batch=batch, logits=True).to_pylist() for batch in (1, 16))

    for one, other in zip(alone, together, strict=True):
        assert (one["index"], one["error"]) == (other["index"], other["error"])
        if one["logits"] is not None:
            assert np.allclose(one["logits"], other["logits"], atol=1e-4)


@pytest.mark.parametrize("engines", [1, 2])
def test_blocks_have_the_rows_of_the_whole(items: list[Item], engines: int) -> None:
    """Blocks that begin at multiples of the batch size give the same rows as one run, bit for bit."""
    settings = SETTINGS.model_copy(update={"instances_per_device": engines})
    whole = table(items, logits=True, embedding=True)
    with Scorer(settings, Columns(logits=True, embedding=True), batch=4) as opened:
        blocks = [opened.table(items[first : first + 8]) for first in range(0, len(items), 8)]

    assert pa.concat_tables(blocks).combine_chunks().equals(whole.combine_chunks())


def test_what_makes_a_scorer_can_be_sent_to_another_process(items: list[Item]) -> None:
    """Settings, columns and items can be pickled, so a process of a cluster can make the same rows."""
    settings, columns, sent = pickle.loads(pickle.dumps((SETTINGS, Columns(top_k=2), items)))  # noqa: S301 (our own)
    with Scorer(settings, columns, 4) as opened:
        assert opened.table(sent).equals(table(items, top_k=2))


def test_the_schema_is_known_without_a_bundle(items: list[Item]) -> None:
    """The schema follows from the columns, also if no image can be read."""
    bad = [item for item in items if item.content in {b"", TEXT}]
    columns = Columns(logits=True, embedding=True)

    assert table(bad, logits=True, embedding=True).schema == schema(columns)
    assert table([], logits=True, embedding=True).schema == schema(columns)
    assert schema(Columns()).names == ["source", "label", "index", "score", "top_k", "error"]


def test_all_classes_is_the_most(items: list[Item]) -> None:
    """A `top_k` above the number of classes gives all of them."""
    (row,) = table(items[:1], top_k=99).to_pylist()

    assert sorted(each["index"] for each in row["top_k"]) == [*range(10)]


def test_the_batch_size_is_measured(items: list[Item]) -> None:
    """Without a batch size, the scorer takes one that its engines are warm for, and pads to no other size."""
    with Scorer(SETTINGS, Columns()) as opened:
        assert opened.batch in {1 << power for power in range(7)}
        assert opened.engines[0].buckets == tuple(sorted({1, opened.batch}))
        assert opened.table(items).num_rows == len(items)


class Failing:
    """A method `run` of an engine that fails while an image has a certain first pixel."""

    def __init__(self, patch: pytest.MonkeyPatch, first_pixel: int | None) -> None:
        self._run, self._first_pixel = Engine.run, first_pixel

        def run(engine: Engine, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
            return self.run(engine, images)

        patch.setattr(Engine, "run", run)

    def run(self, engine: Engine, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        if self._first_pixel is None or any(image[0, 0, 0] == self._first_pixel for image in images):
            raise ValueError("cpu gave logits that are not finite")
        return self._run(engine, images)


def solid(level: int) -> Item:
    return Item(f"level {level}", content=encode(Image.new("RGB", (32, 32), (level, level, level))))


def test_an_image_that_the_network_cannot_run_costs_its_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a batch fails because of one image, the other images of the batch have their results."""
    levels = [solid(level) for level in (10, 20, 30, 40, 50)]
    expected = table(levels, batch=1).to_pylist()
    with Scorer(SETTINGS, Columns(), 4) as opened:
        Failing(monkeypatch, first_pixel=20)
        rows = opened.table(levels).to_pylist()

    assert rows[1]["error"] == "The model failed on the image: cpu gave logits that are not finite."
    assert [row["index"] for row in rows[2:]] == [row["index"] for row in expected[2:]]


def test_an_engine_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the engine fails on golden samples, too, no image is blamed."""
    with Scorer(SETTINGS, Columns(), 4) as opened:
        Failing(monkeypatch, first_pixel=None)

        with pytest.raises(ScoringFailed, match="the engine has failed: cpu cannot run a batch"):
            opened.table([solid(10)])


def test_a_device_that_is_not_there_is_refused() -> None:
    """A scorer verifies its device as the service does."""
    with pytest.raises(DeviceError):
        Scorer(Settings(device="cuda"), Columns())


def test_the_fastest_batch_is_that_of_an_image(demo: Bundle) -> None:
    """The batch size with the shortest time for an image wins, not the one with the shortest run."""
    engine = engine_of(demo)
    engine.bucket_seconds = {1: 1.0, 2: 1.5, 4: 2.9, 8: 6.4}

    assert scorer.fastest_batch(engine) == 4
