"""The training and export of the demo classifier, a small Swin for handwritten digits.

Training takes a few minutes on a CPU. The data are the 1,797 scans of 8×8 pixels in scikit-learn (Alpaydin and Kaynak,
"Optical Recognition of Handwritten Digits", 1998). One fifth, chosen with a fixed seed, is held out from training. The
accuracy on this fifth is stored in the manifest. The network is trained with transformers and saved with
`save_pretrained`. The export is that of `swin-export build`.

    python -m model_export.demo            train and export
    python -m model_export.demo --export   export the existing checkpoint
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from app.bundle.manifest import Evaluation
from app.images.preprocess import preprocess
from app.inference import onnx_runtime
from model_export.build import build
from model_export.checkpoints.detect import read_checkpoint
from model_export.console import Progress
from model_export.verification.parity import normalize

if TYPE_CHECKING:
    from transformers import SwinForImageClassification

CHECKPOINT = Path(__file__).parent / "data" / "demo_checkpoint"
BUNDLE = Path(__file__).parents[1] / "app" / "demo_bundle"
# Name of the data set in the manifest of the demo bundle.
DATASET = "scikit-learn handwritten digits, the fifth held out by seed 0"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Input size in pixels, and the normalization.
SIDE, MEAN, STD = 32, 0.5, 0.5
# Settings of the training.
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 160, 64, 2e-3, 0.05

# The preprocessor_config.json of the checkpoint.
PROCESSOR = """\
{
  "do_normalize": true,
  "do_rescale": true,
  "do_resize": true,
  "image_mean": [0.5, 0.5, 0.5],
  "image_processor_type": "ViTImageProcessor",
  "image_std": [0.5, 0.5, 0.5],
  "resample": 3,
  "rescale_factor": 0.00392156862745098,
  "size": {"height": 32, "width": 32}
}
"""


class Digits(NamedTuple):
    """Scans as images, dark ink on white, and the class of each image."""

    images: list[Image.Image]
    classes: NDArray[np.int64]


def digits() -> tuple[Digits, Digits]:
    """Load the digits. Return the training set and the held-out set."""
    scans, classes = load_digits(return_X_y=True)  # ink from 0 to 16
    pictures = (255 - scans.reshape(-1, 8, 8) * 255 / 16).round().astype(np.uint8)
    train, held_out = train_test_split(np.arange(len(classes)), test_size=0.2, random_state=0, stratify=classes)

    def part(indices: NDArray[np.int64]) -> Digits:
        return Digits([Image.fromarray(pictures[index]).convert("RGB") for index in indices], classes[indices])

    return part(train), part(held_out)


def network() -> "SwinForImageClassification":
    """Return an untrained Swin with two stages of two blocks.

    The first stage has shifted windows. In the second stage, one window covers the map.
    """
    onnx_runtime.load()  # with telemetry off, before transformers imports it with telemetry on
    from transformers import SwinConfig, SwinForImageClassification  # noqa: PLC0415 (after the load)

    return SwinForImageClassification(
        SwinConfig(
            image_size=SIDE,
            patch_size=4,
            embed_dim=48,
            depths=[2, 2],
            num_heads=[3, 6],
            window_size=4,
            mlp_ratio=3.0,
            drop_path_rate=0.1,
            id2label=dict(enumerate(NAMES)),
            label2id={name: index for index, name in enumerate(NAMES)},
        )
    )


def train(data: Digits, seed: int = 0) -> "SwinForImageClassification":
    """Train a network on the images."""
    torch.manual_seed(seed)
    images, classes = _tensor(data.images), torch.from_numpy(data.classes)
    model = network().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * -(-len(classes) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    for batch in track(_batches(len(classes)), "training", total=steps, console=Console(stderr=True)):
        logits = model(pixel_values=_distort(images[batch])).logits
        loss = F.cross_entropy(logits, classes[batch], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    return model


def accuracy(data: Digits) -> float:
    """Return the accuracy of the saved checkpoint, with the reader and the preprocessing of the export."""
    checkpoint = read_checkpoint(str(CHECKPOINT))
    pixels = torch.from_numpy(np.stack([preprocess(image, checkpoint.preprocessing) for image in data.images]))
    with torch.inference_mode():
        logits = checkpoint.network(normalize(pixels, checkpoint.preprocessing))
    return float((logits.argmax(dim=1).numpy() == data.classes).mean())


def export() -> None:
    """Export the checkpoint to the demo bundle. One held-out digit of each class becomes a golden sample."""
    _, held_out = digits()
    first = {name: held_out.images[int(np.argmax(held_out.classes == index))] for index, name in enumerate(NAMES)}
    evaluation = Evaluation(dataset=DATASET, images=len(held_out.images), top1=accuracy(held_out))
    build(
        str(CHECKPOINT),
        BUNDLE,
        name="digits",
        images=first,
        evaluation=evaluation,
        replace=True,
        progress=Progress(),
    )
    print(f"accuracy {evaluation.top1:.2%} on {evaluation.images} held-out digits")


def main() -> int:
    """Train and export. Return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m model_export.demo", description="Train and export the demo classifier of handwritten digits."
    )
    parser.add_argument("--export", action="store_true", help="export the existing checkpoint without training")
    if not parser.parse_args().export:
        data, _ = digits()
        train(data).save_pretrained(CHECKPOINT)
        (CHECKPOINT / "preprocessor_config.json").write_text(PROCESSOR)
    export()
    return 0


def _tensor(images: list[Image.Image]) -> Tensor:
    """Resize and normalize images like the processor: float32 `(images, 3, SIDE, SIDE)`."""
    resized = [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in images]
    return (torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2) / 255 - MEAN) / STD


def _batches(count: int) -> Iterator[Tensor]:
    for _ in range(EPOCHS):
        yield from torch.randperm(count).split(BATCH)


def _distort(images: Tensor) -> Tensor:
    """Rotate, stretch and shift each image slightly at random."""
    count = len(images)
    angle = torch.empty(count).uniform_(-0.15, 0.15)
    stretch = torch.empty(count, 2).uniform_(0.9, 1.12)
    shift = torch.empty(count, 2).uniform_(-0.1, 0.1)
    across = torch.stack([angle.cos() * stretch[:, 0], -angle.sin(), shift[:, 0]], dim=1)
    down = torch.stack([angle.sin(), angle.cos() * stretch[:, 1], shift[:, 1]], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images - 1, grid, align_corners=False) + 1  # pixels outside of an image are white


if __name__ == "__main__":
    sys.exit(main())
