"""`app/bundle/load.py`: a bundle that contradicts its manifest is refused."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from app.bundle import load
from app.bundle.digests import file_digest
from app.bundle.load import Bundle, contents, load_bundle
from app.errors import BundleError
from app.inference.self_test import check_golden, golden_pixels, open_unverified
from app.settings import DEMO_BUNDLE
from app.system.device import CPU


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of the demo bundle for a test to damage."""
    return shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_loads(folder: Path) -> None:
    """An intact bundle is read."""
    bundle = load_bundle(folder)

    assert len(bundle.labels) == bundle.manifest.classes == bundle.golden_logits.shape[1]


@pytest.mark.parametrize("name", sorted(json.loads((DEMO_BUNDLE / "manifest.json").read_text())["files"]))
def test_every_file_is_hashed(folder: Path, name: str) -> None:
    """One flipped bit in any file is detected."""
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)

    with pytest.raises(BundleError, match="SHA-256 differs"):
        load_bundle(folder)


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
    """The error for an unknown key, a missing key, a wrong type or a contradiction is one sentence."""
    edit(folder, change)

    with pytest.raises(BundleError, match=sentence) as error:
        load_bundle(folder)

    assert "\n" not in str(error.value)


def test_a_crop_larger_than_the_image_is_refused(folder: Path) -> None:
    """A crop outside of the resized image is a contradiction."""
    crop = {"height": 40, "width": 40, "rounding": "down"}
    edit(folder, lambda manifest: manifest["preprocessing"].update(crop=crop))

    with pytest.raises(BundleError, match="larger than the resized image"):
        load_bundle(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    """The error for a missing file names the file."""
    (folder / "labels.json").unlink()

    with pytest.raises(BundleError, match=r"labels.json is missing"):
        load_bundle(folder)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    """The error for a folder without a manifest says that there is no bundle."""
    with pytest.raises(BundleError, match="no bundle at"):
        load_bundle(tmp_path)


def test_golden_logits_of_another_shape_are_refused(folder: Path) -> None:
    """Golden logits need one row for each golden sample."""
    np.save(folder / "golden/logits.npy", np.zeros((1, 10), np.float32))
    found = file_digest(folder / "golden/logits.npy")
    edit(folder, lambda manifest: manifest["files"].update({"golden/logits.npy": found}))

    with pytest.raises(BundleError, match="expected"):
        load_bundle(folder)


def overwrite(folder: Path) -> None:
    """Overwrite every file with zeros and truncate it, on the same inode."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("r+b") as file:
                file.write(bytes(path.stat().st_size))
                file.truncate(1)


def test_what_was_read_is_what_is_used(folder: Path, demo: Bundle) -> None:
    """Files that are overwritten after loading do not change the loaded bundle."""
    bundle = load_bundle(folder)
    overwrite(folder)

    assert np.array_equal(bundle.head.weight, demo.head.weight)
    assert bundle.model.read_bytes() == (DEMO_BUNDLE / "model.onnx").read_bytes()
    assert np.array_equal(golden_pixels(bundle), golden_pixels(demo))


def test_an_engine_opened_later_has_the_network_that_was_read(folder: Path) -> None:
    """An engine passes its self-test although the bundle's folder is gone."""
    bundle = load_bundle(folder)
    shutil.rmtree(folder)

    check_golden(bundle, open_unverified(bundle, CPU, 1, [1]))


def test_a_file_changed_after_it_was_read_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that are used are the bytes that were hashed: no file is opened twice."""
    original = load._read  # noqa: SLF001 (the only place where files are opened)

    def read(path: Path, *others: Any, **more: Any) -> str:
        digest = original(path, *others, **more)
        path.write_bytes(b"")
        return digest

    monkeypatch.setattr(load, "_read", read)
    bundle = load_bundle(folder)

    check_golden(bundle, open_unverified(bundle, CPU, 1, [1]))


def test_a_link_moved_while_the_bundle_is_read_mixes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files come from the folder to which the link pointed first."""
    link, original = tmp_path / "current", load._read_manifest  # noqa: SLF001 (the first file of all)
    link.symlink_to(folder)

    def read(*arguments: Any) -> Any:
        manifest = original(*arguments)
        link.unlink()
        link.symlink_to(tmp_path)
        return manifest

    monkeypatch.setattr(load, "_read_manifest", read)

    assert load_bundle(link).manifest.name == "digits"


def test_a_link_moved_inside_the_bundle_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mix of two bundles is refused by name. Kubernetes swaps the link `..data` of a volume."""
    old, new = folder / "..old", folder / "..new"
    for place in (old, new):
        shutil.copytree(DEMO_BUNDLE, place)
    (new / "labels.json").write_bytes((new / "labels.json").read_bytes().replace(b"seven", b"eleven"))
    (folder / "..data").symlink_to(old.name)
    for name in ("labels.json", "manifest.json"):
        (folder / name).unlink()
        (folder / name).symlink_to(f"..data/{name}")
    original = load._read_manifest  # noqa: SLF001 (the first file of all)

    def read(*arguments: Any) -> Any:
        manifest = original(*arguments)
        (folder / "..data").unlink()
        (folder / "..data").symlink_to(new.name)
        return manifest

    assert load_bundle(folder).manifest.name == "digits"
    monkeypatch.setattr(load, "_read_manifest", read)
    with pytest.raises(BundleError, match=r"labels.json is not the file that the manifest describes.*start again"):
        load_bundle(folder)


def test_the_size_of_each_file_is_known(folder: Path) -> None:
    """`sizes` has the size of each file of the manifest."""
    sizes = {name: (folder / name).stat().st_size for name in load_bundle(folder).manifest.files}

    assert load_bundle(folder).sizes == sizes


def test_other_processes_get_no_private_copy(demo: Bundle) -> None:
    """`contents` can be pickled for other processes, and the whole bundle cannot."""
    assert pickle.loads(pickle.dumps(contents(demo))).labels == demo.labels  # noqa: S301 (made here)
    with pytest.raises(TypeError, match="stays in the process that made it"):
        pickle.dumps(demo)


def with_weights_beside(folder: Path, *, is_listed: bool) -> Path:
    """Move the weights of the model into a file of their own, as ONNX external data."""
    model = onnx.load(folder / "model.onnx")
    onnx.save_model(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=99)
    names = ["model.onnx", *(["weights.bin"] if is_listed else [])]
    digests = {name: file_digest(folder / name) for name in names}
    edit(folder, lambda manifest: manifest["files"].update(digests))
    return folder


def test_weights_beside_the_model_are_hashed_and_kept(folder: Path) -> None:
    """External weights that the manifest lists are used as they were read."""
    bundle = load_bundle(with_weights_beside(folder, is_listed=True))
    overwrite(folder)

    check_golden(bundle, open_unverified(bundle, CPU, 1, [1]))


def test_weights_without_a_digest_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """External weights that the manifest does not list are not read, wherever the file is."""
    bundle = load_bundle(with_weights_beside(folder, is_listed=False))
    monkeypatch.chdir(folder)

    with pytest.raises(BundleError, match="refers to weights in a file that the manifest does not list"):
        open_unverified(bundle, CPU, 1, [1])
