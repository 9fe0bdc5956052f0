"""Tests of `model_export/demo.py` and of the demo bundle."""

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
    """Predict the classes of encoded images with the code of the service."""
    engine = engine_of(bundle, buckets=[1, 8])
    recipe = bundle.manifest.preprocessing
    pixels = np.stack([decode_pixels(encode(image), recipe, Limits(10_000)) for image in data.images])
    return np.concatenate([engine.run(batch).argmax(axis=1) for batch in np.array_split(pixels, len(pixels) // 8 + 1)])


def test_the_manifest_has_the_measured_accuracy(demo: Bundle) -> None:
    """On the held-out digits, the bundle has the accuracy in its manifest, at least 98.5 %."""
    _, held_out = recipe.digits()

    top1 = float((predictions(demo, held_out) == held_out.classes).mean())

    assert demo.manifest.evaluation is not None
    assert demo.manifest.evaluation.images == len(held_out.images)
    assert demo.manifest.evaluation.top1 == pytest.approx(top1)
    assert top1 >= 0.985


def test_the_held_out_digits_are_not_trained_on() -> None:
    """The training set and the held-out set are disjoint and together complete."""
    train, held_out = recipe.digits()

    seen, kept = ({image.tobytes() for image in part.images} for part in (train, held_out))
    assert not seen & kept
    assert (len(train.images), len(held_out.images)) == (1437, 360)


def test_exporting_the_checkpoint_again_gives_the_same_logits(
    demo: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export of the demo checkpoint equals the demo bundle, with logits within the golden tolerance."""
    monkeypatch.setattr(recipe, "BUNDLE", tmp_path / "demo")
    recipe.export()
    again = load_bundle(tmp_path / "demo")

    assert np.allclose(demo.golden_logits, again.golden_logits, atol=demo.manifest.golden.tolerance)
    assert demo.manifest.source == again.manifest.source
    assert demo.manifest.golden.samples == again.manifest.golden.samples
    assert demo.manifest.evaluation == again.manifest.evaluation


def test_the_golden_digits_are_held_out(demo: Bundle) -> None:
    """The golden samples, which the README uses, are held-out digits, and the bundle classifies each correctly."""
    _, held_out = recipe.digits()
    kept = {image.tobytes() for image in held_out.images}

    for sample, logits in zip(demo.manifest.golden.samples, demo.golden_logits, strict=True):
        image = decode_image((demo.folder / sample.file).read_bytes(), Limits(10_000))
        assert image.tobytes() in kept
        assert Path(sample.file).stem == demo.labels[int(logits.argmax())].name


def test_it_is_small(demo: Bundle) -> None:
    """The demo bundle, which is part of the package, has at most 3 MB."""
    assert sum(path.stat().st_size for path in demo.folder.rglob("*") if path.is_file()) <= 3e6


def test_training_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few epochs, the accuracy on held-out digits is far above chance."""
    monkeypatch.setattr(recipe, "EPOCHS", 4)
    train, held_out = recipe.digits()

    network = recipe.train(train)
    logits = network(pixel_values=recipe._tensor(held_out.images)).logits  # noqa: SLF001 (the resizing of the training)

    assert (logits.argmax(dim=1).numpy() == held_out.classes).mean() > 0.5
