"""The table of supported models: `python -m tests.references.table` writes it into docs.

For each published variant and each source that has it: random weights, every parameter random; the source library's own
logits (stored for timm and torchvision, computed here for Hugging Face) against those of the exported graph, on ONNX
Runtime.
"""

import argparse
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

from model_export.build import open_graph
from model_export.checkpoints.checkpoint import Options
from model_export.checkpoints.detect import read_checkpoint
from model_export.checkpoints.variants import MEAN, STD, TORCHVISION, VARIANTS
from model_export.network.static import StaticSwin
from model_export.onnx_graph.analysis import graph_macs
from model_export.onnx_graph.export import to_onnx
from tests.references.draw import draw_pixels
from tests.references.stored import stored
from tests.support.networks import save_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "supported-models.md"
MARKS = "<!-- supported models: made by make supported-models -->", "<!-- end of supported models -->"
SOURCES = ("huggingface", "timm", "torchvision")
NAMES = {variant: name for name, (variant, _) in TORCHVISION.items()}


class Row(NamedTuple):
    """One variant, and the largest difference of its logits from each source's, in units of their range."""

    variant: str
    differences: dict[str, float]
    parameters: int
    macs: int
    nodes: int
    megabytes: float


def has(source: str, variant: str) -> bool:
    """Whether the source publishes this variant. The transformers library has one window for all stages."""
    return {
        "huggingface": "_s3_" not in variant,
        "timm": True,
        "torchvision": variant in NAMES,
    }[source]


def measure(source: str, variant: str, folder: Path) -> Row:
    """Read, bake and export the variant with random weights, run it, and compare it with its source."""
    checkpoint, options, expected = CHECKPOINTS[source](variant, folder)
    read = read_checkpoint(str(checkpoint), options)
    config, recipe, model = read.network.config, read.preprocessing, folder / "model.onnx"
    nodes = to_onnx(StaticSwin(read.network, recipe.scale, recipe.mean, recipe.std).eval(), config.input_size, model)
    engine = open_graph(config, model)
    answer = engine.run(draw_pixels(2, *config.input_size))
    return Row(
        variant,
        {source: float(np.abs(answer - expected).max() / np.ptp(expected))},
        sum(parameter.numel() for parameter in read.network.parameters()),
        graph_macs(onnx.load(model)),
        nodes,
        model.stat().st_size / 1e6,
    )


def of_timm(variant: str, folder: Path) -> tuple[Path, Options, NDArray[np.float32]]:
    """A bare state dict; its name says the rest."""
    save_file(stored("timm").state_dict(variant), folder / "model.safetensors")
    return folder / "model.safetensors", Options(architecture=variant), stored("timm").arrays[variant]


def of_torchvision(variant: str, folder: Path) -> tuple[Path, Options, NDArray[np.float32]]:
    """A state dict, which says everything."""
    torch.save(stored("torchvision").state_dict(NAMES[variant]), folder / "weights.pth")
    return folder / "weights.pth", Options(), stored("torchvision").arrays[NAMES[variant]]


def of_huggingface(variant: str, folder: Path) -> tuple[Path, Options, NDArray[np.float32]]:
    """What `save_pretrained` writes, and what the library's network says."""
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


CHECKPOINTS = {"huggingface": of_huggingface, "timm": of_timm, "torchvision": of_torchvision}


def rows(wanted: str) -> Iterator[Row]:
    """Each variant whose name matches, with the differences from all its sources."""
    for variant in VARIANTS:
        if not re.search(wanted, variant):
            continue
        found = []
        for source in SOURCES:
            if has(source, variant):
                with tempfile.TemporaryDirectory() as folder:
                    found.append(measure(source, variant, Path(folder)))
                print(f"{variant} {source}: {found[-1].differences[source]:.1e}", file=sys.stderr)
        differences = {source: value for row in found for source, value in row.differences.items()}
        yield found[0]._replace(differences=differences)


def lines(table: list[Row]) -> Iterator[str]:
    """As Markdown."""
    yield "| variant | parameters | GFLOPs | nodes | file | Δ Hugging Face | Δ timm | Δ torchvision |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in table:
        shown = [f"{row.differences[source]:.1e}" if source in row.differences else "–" for source in SOURCES]
        yield (
            f"| `{row.variant}` | {row.parameters / 1e6:.1f} M | {row.macs / 1e9:.1f} | {row.nodes} | "
            f"{row.megabytes:.0f} MB | {' | '.join(shown)} |"
        )


def main() -> int:
    """Measure, print, and write into the page unless only some were wanted."""
    parser = argparse.ArgumentParser(prog="python -m tests.references.table", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="PATTERN", default="", help="variants whose names match; nothing is written")
    only = parser.parse_args().only
    text = "\n".join(lines(list(rows(only))))
    print(text)
    if not only:
        before, rest = PAGE.read_text().split(MARKS[0])
        _, after = rest.split(MARKS[1])
        PAGE.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
