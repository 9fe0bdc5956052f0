"""Tests of `model_export/evaluation/published.py`."""

import pytest

from app.bundle.load import load_bundle
from app.bundle.manifest import Manifest, SourceKind
from app.settings import DEMO_BUNDLE
from model_export.checkpoints.variants import find_variant
from model_export.evaluation.published import published


def manifest(kind: SourceKind, name: str, digest: str = "0" * 64, classes: int = 1000) -> Manifest:
    """Return the manifest of a bundle of this checkpoint, with its published input size."""
    demo = load_bundle(DEMO_BUNDLE).manifest
    source = demo.source.model_copy(update={"kind": kind, "id": name, "weights_sha256": digest})
    variant = find_variant(name.removesuffix(".pth"))
    side = variant.side if variant else 224
    return demo.model_copy(update={"source": source, "classes": classes, "input_height": side})


@pytest.mark.parametrize(
    ("kind", "name", "top1", "top5"),
    [
        ("original", "swin_tiny_patch4_window7_224.pth", 0.812, 0.955),
        ("timm", "timm/swin_tiny_patch4_window7_224.ms_in1k", 0.812, 0.955),
        ("huggingface", "microsoft/swin-tiny-patch4-window7-224", 0.812, 0.955),
        ("timm", "timm/swin_small_patch4_window7_224.ms_in22k_ft_in1k", 0.832, 0.97),
        ("huggingface", "microsoft/swin-large-patch4-window12-384", 0.873, 0.982),
        ("timm", "timm/swinv2_base_window12to16_192to256.ms_in22k_ft_in1k", 0.862, 0.979),
        ("huggingface", "microsoft/swinv2-base-patch4-window12to24-192to384-22kto1k-ft", 0.871, 0.982),
    ],
)
def test_one_checkpoint_has_three_names(kind: SourceKind, name: str, top1: float, top5: float) -> None:
    """The file of the authors and the repositories of timm and Hugging Face give the accuracy of the authors."""
    found = published(manifest(kind, name))

    assert found is not None
    assert (found.top1, found.top5) == (top1, top5)


def test_torchvision_files_are_identified_by_their_digest() -> None:
    """A file of torchvision with another name is identified by the start of its SHA-256."""
    found = published(manifest("torchvision", "mine.pth", "704ceda3".ljust(64, "0")))

    assert found is not None
    assert (found.top1, found.top5) == (0.81474, 0.95776)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("huggingface", "swin-tiny-patch4-window7-224"),
        ("huggingface", "microsoft/swin-base-patch4-window7-224"),
        ("torchvision", "swin_t-704ceda3.pth"),
        ("original", "my_fine_tune.pth"),
        ("timm", "timm/swin_tiny_patch4_window7_224.ms_in22k"),
    ],
)
def test_an_uncertain_checkpoint_has_no_published_accuracy(kind: SourceKind, name: str) -> None:
    """A name without its repository, an ambiguous repository and a file with other content have none."""
    assert published(manifest(kind, name)) is None


def test_a_fine_tune_with_a_published_name_has_no_published_accuracy() -> None:
    """A published name with another number of classes or another input size has none."""
    name = "swin_tiny_patch4_window7_224.pth"
    resized = manifest("original", name).model_copy(update={"input_height": 384})

    assert published(manifest("original", name, classes=37)) is None
    assert published(resized) is None
