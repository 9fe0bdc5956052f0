"""Bundles of 1 to 200 million parameters with random weights, built once by swin-export and kept in `.cache/`."""

import tempfile
from pathlib import Path

import torch
from transformers import SwinConfig, SwinForImageClassification

from model_export.build import build
from model_export.console import Progress

CACHE = Path(__file__).parents[1] / ".cache"

# Name → embed_dim, depths and num_heads, with windows of 7 on 224 pixels and 1,000 classes. The last
# three are Swin-T, Swin-B and Swin-L.
SIZES = {
    "swin-1m": (24, (2, 2, 2, 2), (1, 2, 4, 8)),
    "swin-7m": (48, (2, 2, 6, 2), (2, 4, 8, 16)),
    "swin-28m": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin-88m": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin-197m": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}


def bundle(name: str) -> Path:
    """Return the folder of this bundle.

    Build it if it is missing: a minute or two for the largest.
    """
    folder = CACHE / name
    if not folder.is_dir():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as checkpoint:
            network(name).save_pretrained(checkpoint)
            build(checkpoint, folder, name=name, progress=Progress())
    return folder


def network(name: str) -> SwinForImageClassification:
    """Return the network of this name in torch, with random weights that are always the same."""
    embed_dim, depths, num_heads = SIZES[name]
    labels = {index: str(index) for index in range(1000)}
    torch.manual_seed(0)
    return SwinForImageClassification(
        SwinConfig(embed_dim=embed_dim, depths=list(depths), num_heads=list(num_heads), id2label=labels)
    )


def main() -> None:
    """Build the missing bundles, and print the folders of all."""
    for name in SIZES:
        print(bundle(name))


if __name__ == "__main__":
    main()
