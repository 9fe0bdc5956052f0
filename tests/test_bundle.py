"""`app/bundle.py`: a bundle is what its manifest says, or the service does not start."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import bundle as bundles
from app.errors import BundleError
from app.settings import DEMO_BUNDLE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demonstration bundle, to be damaged."""
    return shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_loads(folder: Path) -> None:
    """A bundle as it was written is read."""
    bundle = bundles.load(folder)

    assert len(bundle.labels) == bundle.manifest.classes == bundle.golden_logits.shape[1]


@pytest.mark.parametrize("name", sorted(json.loads((DEMO_BUNDLE / "manifest.json").read_text())["files"]))
def test_every_file_is_hashed(folder: Path, name: str) -> None:
    """One flipped bit in any file is noticed."""
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)

    with pytest.raises(BundleError, match="SHA-256 differs"):
        bundles.load(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda manifest: manifest.update(surprise=1), "surprise"),
        (lambda manifest: manifest.pop("activation"), "activation"),
        (lambda manifest: manifest.update(schema_version=2), "schema_version"),
        (lambda manifest: manifest["preprocessing"].pop("crop"), "crop"),
        (lambda manifest: manifest["preprocessing"].update(interpolation="guess"), "interpolation"),
        (lambda manifest: manifest.update(classes="10"), "classes"),
        (lambda manifest: manifest.update(classes=11), "10 labels for 11 classes"),
        (lambda manifest: manifest.update(input_height=64), "does not end with 64×32 pixels"),
        (lambda manifest: manifest["golden"].update(tolerance=1e9), "would let any logits pass"),
        (lambda manifest: manifest["golden"].update(samples=[]), r"golden\.samples"),
        (lambda manifest: manifest["evidence"].update(height=8), "evidence.height and width should be 4 and 4"),
        (
            lambda manifest: manifest["evidence"].update(channels=95),
            r"head/weight.npy is \(10, 96\), expected \(10, 95\)",
        ),
        (lambda manifest: manifest["files"].pop("head/bias.npy"), "lists no digest for head/bias.npy"),
        (lambda manifest: manifest["files"].pop("model.onnx"), "lists no digest for model.onnx"),
        (lambda manifest: manifest["files"].update({"../outside": "0" * 64}), "outside the bundle"),
    ],
)
def test_the_manifest_is_strict(folder: Path, change: Callable[[dict[str, Any]], object], sentence: str) -> None:
    """Unknown keys, missing keys, wrong types and contradictions are each told in one sentence."""
    edit(folder, change)

    with pytest.raises(BundleError, match=sentence) as error:
        bundles.load(folder)

    assert "\n" not in str(error.value)


def test_a_crop_larger_than_the_image_is_refused(folder: Path) -> None:
    """A recipe that would cut outside the resized image is a contradiction."""
    crop = {"height": 40, "width": 40, "rounding": "down"}
    edit(folder, lambda manifest: manifest["preprocessing"].update(crop=crop))

    with pytest.raises(BundleError, match="larger than the resized image"):
        bundles.load(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    """A file that is gone is called by its name."""
    (folder / "labels.json").unlink()

    with pytest.raises(BundleError, match=r"labels.json is missing"):
        bundles.load(folder)


def test_no_bundle(tmp_path: Path) -> None:
    """A folder without a manifest is no bundle."""
    with pytest.raises(BundleError, match="no bundle at"):
        bundles.load(tmp_path)


def test_golden_logits_of_another_shape_are_refused(folder: Path) -> None:
    """There is a row of logits for each golden sample."""
    np.save(folder / "golden/logits.npy", np.zeros((1, 10), np.float32))
    digest = bundles.digest(folder / "golden/logits.npy")
    edit(folder, lambda manifest: manifest["files"].update({"golden/logits.npy": digest}))

    with pytest.raises(BundleError, match="expected"):
        bundles.load(folder)
