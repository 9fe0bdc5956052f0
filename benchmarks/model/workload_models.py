"""The networks of the workloads, made on the spot: `python -m benchmarks.model.models demo swin-t narrow`.

Each is a folder in the cache: `checkpoint/` as Hugging Face saves it, the bundles made of it (`fp32/`, `int8/`), and
what people export without this project: `plain.onnx` with `labels.json` and `recipe.json`. Weights are random, but the
same everywhere and in all forms, so that answers can be compared. Needs torch; what measures does not.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "benchmarks" / ".cache"
DEMO_CHECKPOINT = ROOT / "model_export" / "demo_checkpoint"
OPSET = 17

CROPPED = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
"""The usual preprocessing of photos."""


@dataclass(frozen=True)
class Network:
    """What to make; without `config`, of the demonstration's checkpoint."""

    config: Mapping[str, Any] = field(default_factory=dict)
    precisions: Sequence[str] = ("fp32",)
    has_plain: bool = True  # what the peers of `service` serve


PHOTOS: dict[str, Any] = {"image_size": 224, "window_size": 7, "num_labels": 1000}
TINY: dict[str, Any] = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]}
DEEP: dict[str, Any] = {"depths": [2, 2, 18, 2]}
NARROW: Mapping[str, Any] = {
    "image_size": 224,
    "patch_size": 16,
    "embed_dim": 32,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 7,
}
HALF: Any = {"precisions": ("fp32", "fp16"), "has_plain": False}
"""For GPUs: the one that serves, and what it has to agree with."""

NETWORKS = {
    "demo": Network(),
    "swin-t": Network(PHOTOS | TINY, ("fp32", "int8")),
    "narrow": Network(NARROW),
    "narrow-half": Network(NARROW, **HALF),
    "swin-t-half": Network(PHOTOS | TINY, **HALF),
    "swin-s-half": Network(PHOTOS | DEEP | {"embed_dim": 96, "num_heads": [3, 6, 12, 24]}, **HALF),
    "swin-b-half": Network(PHOTOS | DEEP | {"embed_dim": 128, "num_heads": [4, 8, 16, 32]}, **HALF),
    "swin-l-half": Network(PHOTOS | DEEP | {"embed_dim": 192, "num_heads": [6, 12, 24, 48]}, **HALF),
}


def made(names: Sequence[str]) -> dict[str, Path]:
    """The folder of each, made in a process of its own unless it is there and of this code."""
    folders = {name: CACHE / "models" / name for name in names}
    missing = [name for name, folder in folders.items() if not _is_current(folder)]
    if missing:
        subprocess.run([sys.executable, "-m", "benchmarks.model.models", *missing], check=True, cwd=ROOT)  # noqa: S603 (ours)
    return folders


def _is_current(folder: Path) -> bool:
    stamp = folder / "made-of"
    return stamp.exists() and stamp.read_text() == _code()


def _code() -> str:
    """A digest of what makes bundles: a cached one must not outlive it."""
    folders = [ROOT / "model_export", ROOT / "app" / "bundle"]
    sources = [*(file for folder in folders for file in sorted(folder.rglob("*.py"))), Path(__file__)]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def make(name: str) -> None:
    """Checkpoint, bundles and plain export, in place of what is there."""
    from tests.support.networks import save_checkpoint  # noqa: PLC0415 (torch)

    network, folder = NETWORKS[name], CACHE / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "made-of").unlink(missing_ok=True)
    checkpoint = save_checkpoint(folder / "checkpoint", **_options(network)) if network.config else DEMO_CHECKPOINT
    for precision in network.precisions:
        _bundle(checkpoint, folder / precision, precision)
    if network.has_plain:
        _plain(checkpoint, folder)
    (folder / "made-of").write_text(_code())


def _options(network: Network) -> dict[str, Any]:
    return {**network.config, "processor": CROPPED}


def _bundle(checkpoint: Path, output: Path, precision: str) -> None:
    command = [
        "-m",
        "model_export",
        "build",
        str(checkpoint),
        str(output),
        "--precision",
        precision,
        "--force",
        "--quiet",
    ]
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT)  # noqa: S603 (ours)


def _plain(checkpoint: Path, folder: Path) -> None:
    """Export Hugging Face's network as its users do, and write down what it is to be fed with."""
    import torch  # noqa: PLC0415 (only where there is something to make)
    from transformers import SwinForImageClassification  # noqa: PLC0415 (likewise)

    network: Any = SwinForImageClassification.from_pretrained(checkpoint).eval()
    side = network.config.image_size
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter of TorchScript warns of itself, and of every traced constant
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, side, side),),
            str(folder / "plain.onnx"),
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_axes={"pixel_values": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,  # the newer one cannot trace this network
        )
    labels = [network.config.id2label[index] for index in range(network.config.num_labels)]
    (folder / "labels.json").write_text(json.dumps(labels))
    (folder / "recipe.json").write_text(json.dumps(_recipe(checkpoint)))


def _recipe(checkpoint: Path) -> dict[str, Any]:
    saved = json.loads((checkpoint / "preprocessor_config.json").read_text())
    shorter = saved["size"].get("shortest_edge") or saved["size"]["height"]
    crop = saved["crop_size"]["height"] if saved.get("do_center_crop") else shorter
    return {"shorter_side": shorter, "crop": crop, "mean": saved["image_mean"], "std": saved["image_std"]}


def main() -> int:
    """Make those that are named. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model.models", description=__doc__)
    parser.add_argument("names", nargs="+", choices=NETWORKS)
    for name in parser.parse_args().names:
        print(f"making {name} …", flush=True)
        make(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
