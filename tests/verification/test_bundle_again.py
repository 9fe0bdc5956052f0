"""`swin-export verify`: a bundle is proved again, and what is wrong with it is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.digests import file_digest
from app.bundle.manifest import GOLDEN_LOGITS, HEAD_WEIGHT, MANIFEST
from app.images.preprocess import preprocess
from app.inference.engine import Engine
from app.settings import DEMO_BUNDLE
from model_export.cli.main import main
from model_export.console import Progress
from model_export.demo import CHECKPOINT
from model_export.errors import ProofFailed
from model_export.verification.bundle import verify_bundle
from tests.support.networks import save_checkpoint

QUIET = Progress(quiet=True)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the bundle that ships."""
    return shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")


def test_the_bundle_that_ships_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """Every stage is shown, with its difference and what is allowed."""
    assert main(["verify", str(DEMO_BUNDLE)]) == 0

    shown = capsys.readouterr().err
    stages = ["files", "device", "golden pixels", "golden logits", "batch of 2", "batch of 3", "batch of 8"]
    assert [shown.index(stage) for stage in stages] == sorted(shown.index(stage) for stage in stages)
    assert "allowed" in shown


def test_with_its_checkpoint_everything_is_proved_again(capsys: pytest.CaptureFixture[str]) -> None:
    """From the source library's own preprocessing and network to the graph in the bundle."""
    assert main(["verify", str(DEMO_BUNDLE), "--checkpoint", str(CHECKPOINT)]) == 0

    shown = capsys.readouterr().err
    for stage in ("preprocessing, mean", "network", "static", "onnx, batch of 8", "end to end"):
        assert stage in shown


def damage(bundle: Path) -> None:
    (bundle / "golden/zero.png").write_bytes(b"")


def falsify_head(bundle: Path) -> None:
    """As if evidence came from another head than the graph has."""
    np.save(bundle / HEAD_WEIGHT, np.load(bundle / HEAD_WEIGHT) * 2)
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"][HEAD_WEIGHT] = file_digest(bundle / HEAD_WEIGHT)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def falsify_logits(bundle: Path) -> None:
    logits = np.load(bundle / GOLDEN_LOGITS)
    np.save(bundle / GOLDEN_LOGITS, logits + np.float32(0.01))
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"][GOLDEN_LOGITS] = file_digest(bundle / GOLDEN_LOGITS)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def falsify_size(bundle: Path) -> None:
    """As if the graph had another input than the manifest says."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest |= {"input_height": 64, "input_width": 64}
    manifest["preprocessing"]["resize"] |= {"height": 64, "width": 64}
    manifest["evidence"] |= {"height": 8, "width": 8}
    (bundle / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("stage", "damaged"),
    [("files", damage), ("device", falsify_size), ("golden logits", falsify_logits), ("evidence", falsify_head)],
)
def test_what_is_wrong_is_named(
    stage: str, damaged: Callable[[Path], None], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle that is not what it says fails at that stage, with exit code 1."""
    damaged(bundle)

    assert main(["verify", str(bundle)]) == 1
    assert f"proof failed at stage '{stage}'" in capsys.readouterr().err


def test_another_pillow_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels that differ by one level fail before the network runs."""
    monkeypatch.setattr("app.inference.self_test.preprocess", lambda image, recipe: preprocess(image, recipe) ^ 1)

    with pytest.raises(ProofFailed, match="golden pixels"):
        verify_bundle(DEMO_BUNDLE, progress=QUIET)


def test_rows_that_depend_on_their_batch_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which the second row of three is off fails at the batch of 3."""
    run = Engine.run

    def leaky(engine: Engine, pixels: Any) -> Any:
        logits = run(engine, pixels)
        logits[1:2] += len(pixels) == 3
        return logits

    monkeypatch.setattr(Engine, "run", leaky)

    with pytest.raises(ProofFailed) as failure:
        verify_bundle(DEMO_BUNDLE, progress=QUIET)
    assert failure.value.stage == "batch of 3"


def test_another_checkpoint_is_found(tmp_path: Path) -> None:
    """It is not compared with weights it was not made of."""
    other = save_checkpoint(tmp_path / "other", num_labels=10)

    with pytest.raises(ProofFailed, match="weights"):
        verify_bundle(DEMO_BUNDLE, checkpoint=str(other), progress=QUIET)


def test_the_options_it_was_built_with_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    """The same checkpoint with another preprocessing is another network."""
    code = main(["verify", str(DEMO_BUNDLE), "--checkpoint", str(CHECKPOINT), "--mean", "0.4"])

    assert code == 1
    assert "'preprocessing'" in capsys.readouterr().err


def test_no_bundle_is_a_wrong_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2: nothing was proved wrong."""
    assert main(["verify", str(tmp_path)]) == 2
    assert "there is no bundle" in capsys.readouterr().err
