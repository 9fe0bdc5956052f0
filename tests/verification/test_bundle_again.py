"""Tests of `swin-export verify`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.bundle.digests import file_digest
from app.bundle.manifest import GOLDEN_LOGITS, HEAD_WEIGHT, MANIFEST
from app.classification.embedding import mean_token
from app.images.preprocess import preprocess
from app.inference.engine import Engine
from app.settings import DEMO_BUNDLE
from model_export.checkpoints.huggingface import TransformersReference
from model_export.cli.main import main
from model_export.console import Progress
from model_export.demo import CHECKPOINT
from model_export.errors import VerificationFailed
from model_export.verification.bundle import verify_bundle
from tests.support.networks import save_checkpoint

QUIET = Progress(quiet=True)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the demo bundle."""
    return shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")


def test_the_demo_bundle_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo bundle passes, and every stage is printed in order with its tolerance."""
    assert main(["verify", str(DEMO_BUNDLE)]) == 0

    shown = capsys.readouterr().err
    stages = ["files", "device", "golden pixels", "golden logits", "evidence", "embedding", "batch of 2", "batch of 8"]
    assert [shown.index(stage) for stage in stages] == sorted(shown.index(stage) for stage in stages)
    assert "allowed" in shown


def test_a_checkpoint_adds_the_stages_of_the_build(capsys: pytest.CaptureFixture[str]) -> None:
    """With --checkpoint, the stages of the build run again, from preprocessing to end to end."""
    assert main(["verify", str(DEMO_BUNDLE), "--checkpoint", str(CHECKPOINT)]) == 0

    shown = capsys.readouterr().err
    for stage in ("preprocessing, mean", "network", "static", "onnx, batch of 8", "end to end"):
        assert stage in shown


def test_the_embedding_is_compared_with_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a checkpoint, a bundle with another embedding than the source library fails at `embedding`."""
    embedding = TransformersReference.embedding
    monkeypatch.setattr(TransformersReference, "embedding", lambda *arguments: embedding(*arguments).flip(1))

    with pytest.raises(VerificationFailed) as failure:
        verify_bundle(DEMO_BUNDLE, checkpoint=str(CHECKPOINT), progress=QUIET)
    assert failure.value.stage == "embedding"


def damage(bundle: Path) -> None:
    (bundle / "golden/zero.png").write_bytes(b"")


def falsify_head(bundle: Path) -> None:
    """Double the head for evidence, so that it differs from the head in the graph."""
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
    """Change the input size in the manifest, so that it differs from the graph."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest |= {"input_height": 64, "input_width": 64}
    manifest["preprocessing"]["resize"] |= {"height": 64, "width": 64}
    manifest["evidence"] |= {"height": 8, "width": 8}
    (bundle / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("stage", "damaged"),
    [("files", damage), ("device", falsify_size), ("golden logits", falsify_logits), ("evidence", falsify_head)],
)
def test_a_failure_names_its_stage(
    stage: str, damaged: Callable[[Path], None], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A falsified bundle fails at the falsified stage, with exit code 1."""
    damaged(bundle)

    assert main(["verify", str(bundle)]) == 1
    assert f"verification failed at stage '{stage}'" in capsys.readouterr().err


def test_different_pixels_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels that differ by one level fail at the stage golden pixels."""
    monkeypatch.setattr("app.inference.self_test.preprocess", lambda image, recipe: preprocess(image, recipe) ^ 1)

    with pytest.raises(VerificationFailed, match="golden pixels"):
        verify_bundle(DEMO_BUNDLE, progress=QUIET)


def test_an_embedding_that_contradicts_the_logits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a checkpoint, an embedding from which the head makes other logits fails at `embedding`."""
    monkeypatch.setattr("model_export.verification.bundle.mean_token", lambda tokens: mean_token(tokens) * 1.01)

    with pytest.raises(VerificationFailed) as failure:
        verify_bundle(DEMO_BUNDLE, progress=QUIET)
    assert failure.value.stage == "embedding"


def test_rows_that_depend_on_their_batch_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the second of three rows is wrong, the verification fails at the batch of 3."""
    run = Engine.run

    def faulty_run(engine: Engine, pixels: Any) -> Any:
        logits = run(engine, pixels)
        logits[1:2] += len(pixels) == 3
        return logits

    monkeypatch.setattr(Engine, "run", faulty_run)

    with pytest.raises(VerificationFailed) as failure:
        verify_bundle(DEMO_BUNDLE, progress=QUIET)
    assert failure.value.stage == "batch of 3"


def test_another_checkpoint_is_found(tmp_path: Path) -> None:
    """A checkpoint with other weights than the bundle is refused."""
    other = save_checkpoint(tmp_path / "other", num_labels=10)

    with pytest.raises(VerificationFailed, match="weights"):
        verify_bundle(DEMO_BUNDLE, checkpoint=str(other), progress=QUIET)


def test_other_options_than_in_the_build_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    """The checkpoint of the bundle with another preprocessing is refused."""
    code = main(["verify", str(DEMO_BUNDLE), "--checkpoint", str(CHECKPOINT), "--mean", "0.4"])

    assert code == 1
    assert "'preprocessing'" in capsys.readouterr().err


def test_a_missing_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without a bundle gives exit code 2."""
    assert main(["verify", str(tmp_path)]) == 2
    assert "there is no bundle" in capsys.readouterr().err
