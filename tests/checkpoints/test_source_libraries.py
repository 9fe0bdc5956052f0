"""A source library that is missing, too old or failing is named; the build continues."""

import sys
import types
from pathlib import Path

import pytest
import torch
import transformers

from app.bundle.load import load_bundle
from model_export.checkpoints import timm
from model_export.checkpoints.checkpoint import Options
from model_export.checkpoints.detect import read_checkpoint
from model_export.checkpoints.reference import usable
from model_export.cli.main import main
from tests.references.stored import stored
from tests.support.fake_libraries import failing_timm, failing_torchvision, module, wrong_timm
from tests.support.networks import save_checkpoint


@pytest.fixture
def authors_file(tmp_path: Path) -> Path:
    """Return a file with the weights of a small network by the authors' names."""
    torch.save({"model": timm.renamed(stored("timm").state_dict("plain"))}, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def build(file: Path, *options: str) -> int:
    return main(["build", str(file), str(file.parent / "bundle"), *options])


@pytest.mark.parametrize(
    ("library", "sentence"),
    [
        (failing_timm("0.4.12"), "timm 0.4.12 is too old to be the reference; timm 1.0 or later is needed"),
        (failing_timm("0.6.13"), "timm 0.6.13 is too old to be the reference; timm 1.0 or later is needed"),
        (failing_timm("9.1.0"), "timm 9.1.0 cannot load this network"),
        (None, "without timm"),
    ],
)
@pytest.mark.parametrize("names", ["timm", "original"])
def test_a_release_that_fails_is_named(
    names: str, library: types.ModuleType | None, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If timm is missing, too old or fails, the reference is `swin.py` with the reason."""
    weights = stored("timm").state_dict("plain")
    torch.save(weights if names == "timm" else {"model": timm.renamed(weights)}, tmp_path / "weights.pth")
    monkeypatch.setitem(sys.modules, "timm", library)

    assert_reference(tmp_path / "weights.pth", f"swin.py ({sentence})")


def assert_reference(checkpoint: Path, name: str) -> None:
    read = read_checkpoint(str(checkpoint), Options(input_size=(64, 64)))
    reference = usable(read.reference, read.network, read.preprocessing)

    assert (name, False) == (reference.name, reference.is_independent)


def test_torchvision_before_it_had_a_swin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If torchvision is too old, the reference is `swin.py`, and its name has the reason."""
    torch.save(stored("torchvision").state_dict("plain"), tmp_path / "weights.pth")
    monkeypatch.setitem(sys.modules, "torchvision", failing_torchvision("0.12.0"))

    assert_reference(tmp_path / "weights.pth", "swin.py (torchvision 0.12.0 cannot load this network)")


def test_transformers_that_cannot_load_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If transformers cannot load the folder at the first use, the reference is `swin.py`."""
    folder = save_checkpoint(tmp_path / "checkpoint", image_size=64)
    monkeypatch.setattr("transformers.AutoModelForImageClassification", module("gone", "0"))

    assert_reference(folder, f"swin.py (transformers {transformers.__version__} cannot run this network)")


def test_a_library_without_an_embedding_is_not_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If transformers returns no pooled features, the reference is `swin.py`, and its name has the reason."""
    folder = save_checkpoint(tmp_path / "checkpoint", image_size=64)
    monkeypatch.setattr("transformers.SwinForImageClassification.base_model", None)

    assert_reference(folder, f"swin.py (transformers {transformers.__version__} cannot run this network)")


def test_the_build_continues_and_reports_why(
    authors_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With timm 0.6.13 a bundle is written, without a verified network stage in the manifest."""
    monkeypatch.setitem(sys.modules, "timm", failing_timm("0.6.13"))

    assert build(authors_file, "--input-size", "64") == 0

    assert "compare with swin.py (timm 0.6.13 is too old to be the reference" in capsys.readouterr().err
    stages = load_bundle(authors_file.parent / "bundle").manifest.verified.stages
    assert "network" not in [stage.name for stage in stages]


def test_a_network_that_disagrees_still_fails_the_proof(
    authors_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library that loads the weights and gives other logits fails the build."""
    monkeypatch.setitem(sys.modules, "timm", wrong_timm("1.0.31"))

    assert build(authors_file, "--input-size", "64") == 1
    assert "verification failed at stage 'network'" in capsys.readouterr().err
