"""The models of the benchmark workloads, built on demand.

    python -m benchmarks.model.workload_models demo swin-t narrow

Each model is a folder in the cache. `checkpoint/` is the model as Hugging Face saves it. `fp32/`,
`fp16/` and `int8/` are the bundles that swin-export makes of it. `plain.onnx`, `labels.json` and
`recipe.json` are a plain export, made without swin-serve, for the baselines.

The weights are random, but the same in all forms and on all machines, so that predictions can be
compared. Building needs torch; measuring does not.
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
DEMO_CHECKPOINT = ROOT / "model_export" / "data" / "demo_checkpoint"
OPSET = 17

# The usual preprocessing of photos: shorter side to 256 pixels, center crop of 224.
CROPPED = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}


@dataclass(frozen=True)
class WorkloadModel:
    """Configuration of one model. Without `config`, it is the demonstration checkpoint."""

    config: Mapping[str, Any] = field(default_factory=dict)
    precisions: Sequence[str] = ("fp32",)
    has_plain_export: bool = True  # the baselines of `benchmarks.comparison` serve it


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
# For GPUs: fp16 is served, and fp32 is the reference that it is compared with.
HALF: Any = {"precisions": ("fp32", "fp16"), "has_plain_export": False}

MODELS = {
    "demo": WorkloadModel(),
    "swin-t": WorkloadModel(PHOTOS | TINY, ("fp32", "int8")),
    "narrow": WorkloadModel(NARROW),
    "narrow-half": WorkloadModel(NARROW, **HALF),
    "swin-t-half": WorkloadModel(PHOTOS | TINY, **HALF),
    "swin-s-half": WorkloadModel(PHOTOS | DEEP | {"embed_dim": 96, "num_heads": [3, 6, 12, 24]}, **HALF),
    "swin-b-half": WorkloadModel(PHOTOS | DEEP | {"embed_dim": 128, "num_heads": [4, 8, 16, 32]}, **HALF),
    "swin-l-half": WorkloadModel(PHOTOS | DEEP | {"embed_dim": 192, "num_heads": [6, 12, 24, 48]}, **HALF),
}


def model_folders(names: Sequence[str]) -> dict[str, Path]:
    """Return the folder of each model. Build missing and outdated ones in a separate process."""
    folders = {name: CACHE / "models" / name for name in names}
    missing = [name for name, folder in folders.items() if not _is_current(folder)]
    if missing:
        command = [sys.executable, "-m", "benchmarks.model.workload_models", *missing]
        subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603 (a module of this repository)
    return folders


def _is_current(folder: Path) -> bool:
    stamp = folder / "source-digest"
    return stamp.exists() and stamp.read_text() == _source_digest()


def _source_digest() -> str:
    """Return a digest of the code that builds bundles: a cached bundle of older code is not used."""
    folders = [ROOT / "model_export", ROOT / "app" / "bundle"]
    sources = [*(file for folder in folders for file in sorted(folder.rglob("*.py"))), Path(__file__)]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def build_model(name: str) -> None:
    """Write the checkpoint, the bundles and the plain export of a model, over existing files."""
    from tests.support.networks import save_checkpoint  # noqa: PLC0415 (torch)

    model, folder = MODELS[name], CACHE / "models" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source-digest").unlink(missing_ok=True)
    checkpoint = save_checkpoint(folder / "checkpoint", **_options(model)) if model.config else DEMO_CHECKPOINT
    for precision in model.precisions:
        _build_bundle(checkpoint, folder / precision, precision)
    if model.has_plain_export:
        _export_plain(checkpoint, folder)
    (folder / "source-digest").write_text(_source_digest())


def _options(model: WorkloadModel) -> dict[str, Any]:
    return {**model.config, "processor": CROPPED}


def _build_bundle(checkpoint: Path, output: Path, precision: str) -> None:
    command = ["-m", "model_export", "build", str(checkpoint), str(output)]
    command += ["--precision", precision, "--force", "--quiet"]
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT)  # noqa: S603 (a module of this repository)


def _export_plain(checkpoint: Path, folder: Path) -> None:
    """Export Hugging Face's network as its users do, and write its labels and preprocessing."""
    import torch  # noqa: PLC0415 (only a build needs it)
    from transformers import SwinForImageClassification  # noqa: PLC0415 (likewise)

    network: Any = SwinForImageClassification.from_pretrained(checkpoint).eval()
    side = network.config.image_size
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter warns of itself, and of every traced constant
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, side, side),),
            str(folder / "plain.onnx"),
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_axes={"pixel_values": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,  # the newer exporter cannot trace this network
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
    """Build the models that the command line names. Return 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model.workload_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", choices=MODELS, metavar="NAME", help=f"one of: {', '.join(MODELS)}")
    for name in parser.parse_args().names:
        print(f"building {name} …", flush=True)
        build_model(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
