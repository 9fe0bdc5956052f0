"""The description of a bundle by its manifest and its graph (`swin-export inspect`). Runs no network."""

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

# Number of labels that are shown.
FIRST_LABELS = 5
# Origin of preprocessing and labels in the manifest → its description.
ORIGINS = {
    "checkpoint": "from the checkpoint",
    "options": "from the options",
    "published recipe": "assumed: the published preprocessing of the source, because the checkpoint has none",
    "published names": "assumed: ImageNet's names, because the number of classes is the same",
    "numbers": "numbers, because the checkpoint has no class names",
}


def inspect(folder: Path) -> dict[str, Any]:
    """Return the description of a bundle as a JSON object.

    Raises:
        BundleError: there is no bundle, or it is damaged.
        ExportError: the multiply-accumulates of the graph cannot be counted.
    """
    bundle = load_bundle(folder)
    manifest = bundle.manifest
    model = onnx.load(bundle.model, load_external_data=False)  # the shapes are sufficient
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
    """Print the description as tables."""
    console.print(table(facts["name"], ("", ""), _summary(facts)))
    stages = [
        (stage["name"], stage["against"], f"{stage['difference']:.2g}", f"{stage['tolerance']:g} {stage['unit']}")
        for stage in facts["verified"]["stages"]
    ]
    console.print(table("verification", ("stage", "compared with", "difference", "tolerance"), stages))
    console.print(table("compared with float32", ("", ""), _precision_report(facts["ledger"])))
    graph = facts["graph"]
    counts = [(name, str(count)) for name, count in graph["operators"].items()]
    console.print(table(f"graph: {graph['nodes']} nodes", ("operator", "nodes"), counts))
    files = [(name, decimal(size)) for name, size in facts["files"].items()]
    console.print(table("files", ("file", "size"), files))


def _precision_report(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "method", report["method"]
    yield "graph", f"{decimal(report['bytes'])}, {decimal(report['fp32_bytes'])} in float32"
    yield "top-1 agreement", f"{percent(report['top1_agreement'])} on {report['images']} images"
    yield "max logit difference", f"{report['max_logit_difference'] / report['logit_range']:.2g} of the logit range"
    yield "… within batches", f"{report['max_batch_difference'] / report['logit_range']:.2g} of the logit range"
    for bucket in report["buckets"]:
        times = f"{bucket['milliseconds']:g} ms, {bucket['fp32_milliseconds']:g} ms in float32"
        yield f"batch of {bucket['batch']}", times
    yield "kept in float32", ", ".join(report["kept_float32"]) or "all nodes"


def _summary(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    source, network, labels, graph = facts["source"], facts["architecture"], facts["labels"], facts["graph"]
    yield "source", f"{source['id']} ({source['kind']}{', ' + source['revision'] if source['revision'] else ''})"
    yield "weights", f"SHA-256 {source['weights_sha256']}"
    yield "architecture", f"{network['family']}, {network['embed_dim']} channels, depths {network['depths']}"
    yield "", f"heads {network['num_heads']}, windows {network['window_sizes']}"
    yield "parameters", f"{network['parameters'] / 1e6:.2f} M"
    yield "cost per image", f"{graph['macs'] / 1e9:.3g} G multiply-accumulates"
    yield "preprocessing", f"{facts['preprocessing_in_words']}; {ORIGINS[source['preprocessing_from']]}"
    shown = f"{'; '.join(labels['first'])}{' …' if labels['count'] > FIRST_LABELS else ''}"
    yield "labels", f"{labels['count']}: {shown}; {ORIGINS[source['labels_from']]}"
    yield "scores", facts["activation"]
    yield "precision", f"{facts['precision']}, opset {facts['opset']}"
    yield "signature", "; ".join(f"{name} {description}" for name, description in graph["signature"].items())
    yield "constants", ", ".join(f"{decimal(size)} of {kind}" for kind, size in graph["constants"].items())
    golden = facts["golden"]
    yield "golden samples", f"{len(golden['samples'])}, logits within {golden['tolerance']:.2g}"
    if evaluation := facts["evaluation"]:
        yield "accuracy", f"{percent(evaluation['top1'])} of {evaluation['images']} images: {evaluation['dataset']}"
