"""`swin-export inspect`: what a bundle is, read off its manifest and its graph."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
from rich.console import Console
from rich.filesize import decimal

from app.bundle.load import load_bundle
from model_export.checkpoints.preprocessing import describe_preprocessing
from model_export.console import percent, table
from model_export.onnx_graph.analysis import constant_bytes, graph_macs, operators, signature

FIRST_LABELS = 5
# Where preprocessing and labels came from, by the manifest's words.
FROM = {
    "checkpoint": "from the checkpoint",
    "options": "from the options",
    "published recipe": "assumed: the source's published recipe, because the checkpoint does not say it",
    "published names": "assumed: ImageNet's names, because their number is the same",
    "numbers": "numbers, because the checkpoint names no classes",
}


def inspect(folder: Path) -> dict[str, Any]:
    """Everything worth knowing of a bundle, as JSON has it.

    Raises:
        BundleError: there is none, or it is damaged.
        ExportError: what the graph costs cannot be told.
    """
    bundle = load_bundle(folder)
    manifest = bundle.manifest
    model = onnx.load(bundle.model, load_external_data=False)  # shapes are enough
    return {
        **manifest.model_dump(mode="json", exclude={"files", "schema_version"}),
        "preprocessing_in_words": describe_preprocessing(manifest.preprocessing),
        "labels": {"count": len(bundle.labels), "first": [label.name for label in bundle.labels[:FIRST_LABELS]]},
        "files": dict(bundle.sizes),
        "graph": {
            "nodes": len(model.graph.node),
            "operators": operators(model),
            "constants": constant_bytes(model),
            "signature": signature(model),
            "macs": graph_macs(model),
        },
    }


def show(facts: Mapping[str, Any], console: Console) -> None:
    """The same in tables."""
    console.print(table(facts["name"], ("", ""), _summary(facts)))
    stages = [
        (stage["name"], stage["against"], f"{stage['difference']:.2g}", f"{stage['tolerance']:g} {stage['unit']}")
        for stage in facts["verified"]["stages"]
    ]
    console.print(table("proof", ("stage", "against", "difference", "allowed"), stages))
    console.print(table("beside float32", ("", ""), _ledger(facts["ledger"])))
    graph = facts["graph"]
    counts = [(name, str(count)) for name, count in graph["operators"].items()]
    console.print(table(f"graph: {graph['nodes']} nodes", ("operator", "nodes"), counts))
    files = [(name, decimal(size)) for name, size in facts["files"].items()]
    console.print(table("files", ("file", "size"), files))


def _ledger(ledger: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "made by", ledger["method"]
    yield "graph", f"{decimal(ledger['bytes'])}, {decimal(ledger['fp32_bytes'])} in float32"
    yield "top-1 agreement", f"{percent(ledger['top1_agreement'])} on {ledger['images']} images"
    yield "largest Δlogit", f"{ledger['max_logit_difference'] / ledger['logit_range']:.2g} of their range"
    yield "… by batch mates", f"{ledger['max_batch_difference'] / ledger['logit_range']:.2g}"
    for bucket in ledger["buckets"]:
        times = f"{bucket['milliseconds']:g} ms, {bucket['fp32_milliseconds']:g} ms in float32"
        yield f"batch of {bucket['batch']}", times
    yield "kept in float32", ", ".join(ledger["kept_float32"]) or "all of it"


def _summary(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    source, network, labels, graph = facts["source"], facts["architecture"], facts["labels"], facts["graph"]
    yield "source", f"{source['id']} ({source['kind']}{', ' + source['revision'] if source['revision'] else ''})"
    yield "weights", f"SHA-256 {source['weights_sha256']}"
    yield "architecture", f"{network['family']}, {network['embed_dim']} channels, depths {network['depths']}"
    yield "", f"heads {network['num_heads']}, windows {network['window_sizes']}"
    yield "parameters", f"{network['parameters'] / 1e6:.2f} M"
    yield "cost of an image", f"{graph['macs'] / 1e9:.3g} G multiply-accumulates"
    yield "preprocessing", f"{facts['preprocessing_in_words']}; {FROM[source['preprocessing_from']]}"
    shown = f"{'; '.join(labels['first'])}{' …' if labels['count'] > FIRST_LABELS else ''}"
    yield "labels", f"{labels['count']}: {shown}; {FROM[source['labels_from']]}"
    yield "scores", facts["activation"]
    yield "precision", f"{facts['precision']}, opset {facts['opset']}"
    yield "signature", "; ".join(f"{name} {described}" for name, described in graph["signature"].items())
    yield "constants", ", ".join(f"{decimal(size)} of {kind}" for kind, size in graph["constants"].items())
    golden = facts["golden"]
    yield "golden samples", f"{len(golden['samples'])}, logits to {golden['tolerance']:.2g}"
    if evaluation := facts["evaluation"]:
        yield "accuracy", f"{percent(evaluation['top1'])} of {evaluation['images']}: {evaluation['dataset']}"
