"""Measures the results for the table of supported models: `python -m tests.references.table`.

Each published variant of each source gets random weights and is exported. The logits of the graph on ONNX Runtime are
compared with those of the source library. The latter are stored for timm and torchvision, and computed for
transformers.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import AutoModelForImageClassification

from model_export.build import open_cpu_engine
from model_export.checkpoints.checkpoint import Options
from model_export.checkpoints.detect import read_checkpoint
from model_export.checkpoints.variants import MEAN, STD, TORCHVISION, VARIANTS
from model_export.network.static import StaticSwin
from model_export.onnx_graph.analysis import graph_macs
from model_export.onnx_graph.export import to_onnx
from tests.references.draw import draw_pixels
from tests.references.stored import stored
from tests.support.networks import save_checkpoint

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "supported-models.json"
SOURCES = ("huggingface", "timm", "torchvision")
NAMES = {variant: name for name, (variant, _) in TORCHVISION.items()}


class Row(NamedTuple):
    """A variant, with its largest logit difference from each source as a share of the logit range."""

    variant: str
    differences: dict[str, float]
    parameters: int
    macs: int
    nodes: int
    megabytes: float


def has(source: str, variant: str) -> bool:
    """Return True if the source has this variant. transformers has one window size for all stages."""
    return {
        "huggingface": "_s3_" not in variant,
        "timm": True,
        "torchvision": variant in NAMES,
    }[source]


def measure(source: str, variant: str, folder: Path) -> Row:
    """Export a variant with random weights, run it, and compare its logits with those of its source."""
    checkpoint, options, expected = CHECKPOINTS[source](variant, folder)
    read = read_checkpoint(str(checkpoint), options)
    config, recipe, model = read.network.config, read.preprocessing, folder / "model.onnx"
    nodes = to_onnx(StaticSwin(read.network, recipe.scale, recipe.mean, recipe.std).eval(), config.input_size, model)
    engine = open_cpu_engine(config, model)
    logits = engine.run(draw_pixels(2, *config.input_size))
    return Row(
        variant,
        {source: float(np.abs(logits - expected).max() / np.ptp(expected))},
        sum(parameter.numel() for parameter in read.network.parameters()),
        graph_macs(onnx.load(model)),
        nodes,
        model.stat().st_size / 1e6,
    )


def write_timm(variant: str, folder: Path) -> tuple[Path, Options, NDArray[np.float32]]:
    """Write a bare state dict of timm. Return the path, options and logits; the architecture is an option."""
    save_file(stored("timm").state_dict(variant), folder / "model.safetensors")
    return folder / "model.safetensors", Options(architecture=variant), stored("timm").arrays[variant]


def write_torchvision(variant: str, folder: Path) -> tuple[Path, Options, NDArray[np.float32]]:
    """Write a state dict of torchvision, which needs no options. Return the path, options and logits."""
    torch.save(stored("torchvision").state_dict(NAMES[variant]), folder / "weights.pth")
    return folder / "weights.pth", Options(), stored("torchvision").arrays[NAMES[variant]]


def write_huggingface(variant: str, folder: Path) -> tuple[Path, Options, NDArray[np.float32]]:
    """Write a folder of `save_pretrained`. Return the path, options and logits of transformers."""
    shape = VARIANTS[variant]
    config: dict[str, Any] = {
        "version": shape.version,
        "image_size": shape.side,
        "embed_dim": shape.embed_dim,
        "depths": list(shape.depths),
        "num_heads": list(shape.num_heads),
        "window_size": shape.windows[0],
        "num_labels": 1000,
    }
    if shape.version == 2:
        config["pretrained_window_sizes"] = list(shape.pretrained_windows)
    recipe = {"image_mean": list(MEAN), "image_std": list(STD)}
    checkpoint = save_checkpoint(folder / "checkpoint", processor=recipe, **config)
    network = AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    images = torch.from_numpy(draw_pixels(2, shape.side, shape.side)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(channels).view(3, 1, 1) for channels in (MEAN, STD))
    with torch.inference_mode():
        logits: NDArray[np.float32] = network(pixel_values=(images - mean) / std).logits.numpy()
    return checkpoint, Options(), logits


CHECKPOINTS = {"huggingface": write_huggingface, "timm": write_timm, "torchvision": write_torchvision}


def rows(pattern: str) -> Iterator[Row]:
    """Measure each variant with a name that matches a pattern, against all of its sources."""
    for variant in VARIANTS:
        if not re.search(pattern, variant):
            continue
        found = []
        for source in SOURCES:
            if has(source, variant):
                with tempfile.TemporaryDirectory() as folder:
                    found.append(measure(source, variant, Path(folder)))
                print(f"{variant} {source}: {found[-1].differences[source]:.1e}", file=sys.stderr)
        differences = {source: value for row in found for source, value in row.differences.items()}
        yield found[0]._replace(differences=differences)


def record(row: Row) -> dict[str, Any]:
    """Return a row of the results, in the units and digits of the table."""
    return {
        "variant": row.variant,
        "parameters_m": round(row.parameters / 1e6, 1),
        "gflops": round(row.macs / 1e9, 1),
        "nodes": row.nodes,
        "megabytes": round(row.megabytes),
        "differences": {source: float(f"{value:.1e}") for source, value in row.differences.items()},
    }


def main() -> int:
    """Measure the variants and print the results. Without --only, also write them into benchmarks/results."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.references.table", description="Measure the results for the table of supported models."
    )
    parser.add_argument(
        "--only",
        metavar="PATTERN",
        default="",
        help="measure only variants with names that match this regular expression, and write no file",
    )
    only = parser.parse_args().only
    text = json.dumps([record(row) for row in rows(only)], indent=2)
    print(text)
    if not only:
        RESULTS.write_text(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
