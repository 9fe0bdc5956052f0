"""`model_export/demo.py` and the bundle that ships."""

from pathlib import Path

import numpy as np
import pytest

from app.bundle.load import Bundle, load_bundle
from app.images.decode import Limits, decode_image
from app.images.preprocess import decode_pixels
from model_export import demo as recipe
from tests.support.engines import engine_of
from tests.support.images import encode


def predictions(bundle: Bundle, data: recipe.Digits) -> np.ndarray:
    """Classes of encoded images, by the code that serves."""
    engine = engine_of(bundle, buckets=[1, 8])
    recipe = bundle.manifest.preprocessing
    pixels = np.stack([decode_pixels(encode(image), recipe, Limits(10_000)) for image in data.images])
    return np.concatenate([engine.run(batch).argmax(axis=1) for batch in np.array_split(pixels, len(pixels) // 8 + 1)])


def test_the_accuracy_in_the_manifest_is_the_one_measured(demo: Bundle) -> None:
    """On the digits held out, from bytes to class, the bundle reaches what it claims: at least 98.5 %."""
    _, held_out = recipe.digits()

    top1 = float((predictions(demo, held_out) == held_out.classes).mean())

    assert demo.manifest.evaluation is not None
    assert demo.manifest.evaluation.images == len(held_out.images)
    assert demo.manifest.evaluation.top1 == pytest.approx(top1)
    assert top1 >= 0.985


def test_the_held_out_digits_are_not_trained_on() -> None:
    """No scan is in both parts, and together they are all there are."""
    train, held_out = recipe.digits()

    seen, kept = ({image.tobytes() for image in part.images} for part in (train, held_out))
    assert not seen & kept
    assert (len(train.images), len(held_out.images)) == (1437, 360)


def test_exporting_the_checkpoint_again_gives_the_same_logits(
    demo: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle that ships is what the recipe makes of the checkpoint that ships."""
    monkeypatch.setattr(recipe, "BUNDLE", tmp_path / "demo")
    recipe.export()
    again = load_bundle(tmp_path / "demo")

    assert np.allclose(demo.golden_logits, again.golden_logits, atol=demo.manifest.golden.tolerance)
    assert demo.manifest.source == again.manifest.source
    assert demo.manifest.golden.samples == again.manifest.golden.samples
    assert demo.manifest.evaluation == again.manifest.evaluation


def test_the_golden_digits_are_held_out_ones(demo: Bundle) -> None:
    """What `curl` is shown in the README was never trained on, and each is named rightly."""
    _, held_out = recipe.digits()
    kept = {image.tobytes() for image in held_out.images}

    for sample, logits in zip(demo.manifest.golden.samples, demo.golden_logits, strict=True):
        image = decode_image((demo.folder / sample.file).read_bytes(), Limits(10_000))
        assert image.tobytes() in kept
        assert Path(sample.file).stem == demo.labels[int(logits.argmax())].name


def test_it_is_small(demo: Bundle) -> None:
    """It ships with the package: at most 3 MB."""
    assert sum(path.stat().st_size for path in demo.folder.rglob("*") if path.is_file()) <= 3e6


def test_training_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few epochs of the very recipe are far above chance on digits it has not seen."""
    monkeypatch.setattr(recipe, "EPOCHS", 4)
    train, held_out = recipe.digits()

    network = recipe.train(train)
    logits = network(pixel_values=recipe._tensor(held_out.images)).logits  # noqa: SLF001 (the recipe's own resizing)

    assert (logits.argmax(dim=1).numpy() == held_out.classes).mean() > 0.5
