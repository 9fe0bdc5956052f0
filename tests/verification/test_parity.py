"""Tests of `model_export/verification/parity.py`: the stage that proves the embedding, without an export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from app.bundle.manifest import Stage
from model_export.checkpoints import timm
from model_export.checkpoints.checkpoint import Checkpoint, Options
from model_export.checkpoints.detect import read_checkpoint
from model_export.checkpoints.huggingface import TransformersReference
from model_export.errors import VerificationFailed
from model_export.network.static import StaticSwin
from model_export.verification.images import generate_images
from model_export.verification.parity import ParityCheck
from tests.references.stored import stored
from tests.support.networks import save_checkpoint


class TorchEngine:
    """An engine that runs the static network in torch, and adds `defect` to every token."""

    def __init__(self, static: StaticSwin, defect: Tensor | None = None) -> None:
        self._static, self._defect = static, torch.zeros(()) if defect is None else defect

    def run(self, pixels: Any) -> Any:
        """Return the logits."""
        return self.run_with_tokens(pixels)[0]

    def run_with_tokens(self, pixels: Any) -> Any:
        """Return the logits and the tokens."""
        with torch.inference_mode():
            logits, tokens = self._static(torch.tensor(pixels))
            return logits.numpy(), (tokens + self._defect).numpy()


def stages(checkpoint: Checkpoint, defect: Tensor | None = None) -> dict[str, Stage]:
    """Return the stages by name. `defect` is added to every token of the engine."""
    recipe = checkpoint.preprocessing
    static = StaticSwin(checkpoint.network, recipe.scale, recipe.mean, recipe.std).eval()
    engine: Any = TorchEngine(static, defect)
    return {stage.name: stage for stage in ParityCheck(checkpoint, static, engine, generate_images()).stages()}


def transformers_folder(folder: Path) -> Path:
    return save_checkpoint(folder / "folder", image_size=64)


def timm_file(folder: Path) -> Path:
    save_file(stored("timm").state_dict("plain"), folder / "model.safetensors")
    return folder / "model.safetensors"


def torchvision_file(folder: Path) -> Path:
    torch.save(stored("torchvision").state_dict("plain"), folder / "weights.pth")
    return folder / "weights.pth"


def authors_file(folder: Path) -> Path:
    torch.save({"model": timm.renamed(stored("timm").state_dict("plain"))}, folder / "weights.pth")
    return folder / "weights.pth"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """A checkpoint of transformers: 10 classes, 48 channels."""
    return read_checkpoint(str(transformers_folder(tmp_path)))


@pytest.mark.parametrize(
    ("kind", "write"),
    [
        ("huggingface", transformers_folder),
        ("timm", timm_file),
        ("torchvision", torchvision_file),
        ("original", authors_file),
    ],
)
def test_the_embedding_of_every_source_is_proved(kind: str, write: Callable[[Path], Path], tmp_path: Path) -> None:
    """For each kind of checkpoint, the embedding is compared with the reference, between evidence and end to end."""
    source = read_checkpoint(str(write(tmp_path)), Options(input_size=(64, 64)))

    found = stages(source)

    assert source.source.kind == kind
    assert list(found)[-3:] == ["evidence", "embedding", "end to end"]
    assert found["embedding"].against == source.reference.name


def test_a_defect_that_no_logit_shows_is_found(checkpoint: Checkpoint) -> None:
    """Tokens that are wrong in a direction that the head does not read pass `evidence` and fail `embedding`."""
    *_, unread = torch.linalg.svd(checkpoint.network.head.weight.detach()).Vh

    with pytest.raises(VerificationFailed) as failure:
        stages(checkpoint, 0.01 * unread)

    assert failure.value.stage == "embedding"


def test_a_library_with_another_embedding_is_found(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the library has the same logits and another embedding, the verification fails at `embedding`."""
    embedding = TransformersReference.embedding
    monkeypatch.setattr(TransformersReference, "embedding", lambda *arguments: embedding(*arguments).flip(1))

    with pytest.raises(VerificationFailed) as failure:
        stages(checkpoint)

    assert failure.value.stage == "embedding"


def test_the_unit_is_the_range_of_the_embedding(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library whose embedding differs by 0.00005 of its range gives this difference, and passes."""
    embedding = TransformersReference.embedding

    def off_by_a_share(reference: TransformersReference, images: Tensor) -> Tensor:
        values = embedding(reference, images)
        return values.add(5e-5 * float(values.max() - values.min()))

    monkeypatch.setattr(TransformersReference, "embedding", off_by_a_share)

    assert stages(checkpoint)["embedding"].difference == pytest.approx(5e-5, rel=0.05)
