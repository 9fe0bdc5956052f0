"""Fine-tuned checkpoints of timm and torchvision."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.references import cases
from tests.references.stored import stored

ARGUMENTS = cases.SMALL | cases.TIMM_PIPELINE
BREEDS = [f"breed {index}" for index in range(37)]
FLOWERS = [f"flower {index}" for index in range(102)]


@pytest.fixture
def timm_folder(tmp_path: Path) -> Path:
    """A fine-tune with 37 classes, as timm writes it for the Hugging Face Hub."""
    folder = tmp_path / "timm"
    folder.mkdir()
    config = {
        "architecture": "swin_tiny_patch4_window7_224",
        "num_classes": 37,
        "num_features": 48,
        "global_pool": "avg",
        "label_names": BREEDS,
        "model_args": ARGUMENTS,
        "pretrained_cfg": {"tag": "mine", "num_classes": 37, **cases.TIMM_RECIPE},
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(stored("timm").state_dict("pipeline"), folder / "model.safetensors")
    return folder


@pytest.fixture
def torchvision_file(tmp_path: Path) -> Path:
    """A fine-tune with 102 classes, as the training script of torchvision saves it, beside its class names."""
    wrapped = {"model": stored("torchvision").state_dict("pipeline"), "epoch": 30}
    torch.save(wrapped, tmp_path / "flowers.pth")
    (tmp_path / "flowers.txt").write_text("\n".join(FLOWERS) + "\n")
    return tmp_path / "flowers.pth"
