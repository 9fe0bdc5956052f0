"""The recipe, readable top to bottom: read → bake → export → open → prove → write."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from app.bundle.manifest import (
    MODEL,
    SCHEMA_VERSION,
    Evaluation,
    Golden,
    Ledger,
    Manifest,
    Verified,
)
from app.inference.engine import Engine, open_engine
from app.inference.session import Network
from app.system.cpus import available_cpus
from app.system.device import CPU
from model_export.bundle_io.write import (
    bundle_folder,
    check_space,
    write_golden,
    write_head,
    write_labels,
    write_manifest,
)
from model_export.checkpoints.checkpoint import Checkpoint, Options
from model_export.checkpoints.detect import read_checkpoint
from model_export.checkpoints.reference import usable
from model_export.console import Progress
from model_export.errors import CheckpointError, PrecisionLost, RequestError
from model_export.network.architecture import architecture_of, last_map, parameters_of
from model_export.network.static import StaticSwin
from model_export.network.swin import SwinConfig
from model_export.onnx_graph.export import OPSET, to_onnx
from model_export.onnx_graph.precision import convert
from model_export.verification.images import Images, generated, pixels_of
from model_export.verification.parity import BATCH_SIZES, Proof
from model_export.verification.precision_report import PRECISIONS, TOLERANCES, PrecisionOptions, compare, logits, told

# Bytes of a parameter in the float32 graph, and of one golden sample with its margin: 640×640 pixels as PNG.
BYTES, GOLDEN_BYTES = 4, 1_300_000


def build(
    checkpoint: str,
    output: Path,
    *,
    options: Options | None = None,
    images: Images | None = None,
    name: str | None = None,
    evaluation: Evaluation | None = None,
    precision: PrecisionOptions | None = None,
    replace: bool = False,
    progress: Progress,
) -> None:
    """Checkpoint → bundle.

    Args:
        checkpoint: a folder, a file of weights, or the id of a repository on the Hugging Face hub.
        options: what is to hold where the checkpoint is silent, or in place of what it says.
        output: the bundle's folder; it appears only after the proof has passed.
        images: become the golden samples; generated pictures where none are given.
        name: what the bundle calls itself; the checkpoint's own name where none is given.
        evaluation: an accuracy the caller measured, for the manifest.
        precision: of the graph that will serve; float32 where nothing is said.
        replace: allow to replace an existing bundle.
        progress: told of every step.

    Raises:
        ExportError: in one sentence, what went wrong, and at which step. `output` is untouched.
    """
    with bundle_folder(output, replace=replace) as folder:
        source = _read(checkpoint, options, progress)
        precision = precision or PrecisionOptions()
        images = images or generated()
        check_provable(source, images)
        copies = 1 if precision.precision == "fp32" else 2
        check_space(output, copies * parameters_of(source.network) * BYTES + len(images) * GOLDEN_BYTES)
        fp32 = folder.with_name("fp32.onnx")  # beside the bundle, and gone with it
        static, engine = _export(source, fp32, progress)
        proof, verified = _prove(source, static, engine, images, progress)
        served, ledger = _convert(source, proof, (fp32, folder / MODEL), precision, progress)
        with progress.step("write the bundle") as notes:
            answers = logits(served, proof.pixels, 1)
            samples = write_golden(folder, proof.images, proof.pixels, answers)
            tolerance = TOLERANCES[precision.precision] * proof.logit_range
            promise = Golden(samples=tuple(samples), tolerance=tolerance)
            write_labels(folder, source.labels)
            write_head(folder, proof.head)
            manifest = _manifest(source, name, promise, verified=verified, evaluation=evaluation, ledger=ledger)
            write_manifest(folder, manifest)
            notes.append(f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:.1f} MB")


def check_provable(source: Checkpoint, images: Images) -> None:
    """Tell before the export what no proof can compare: logits that are all the same.

    Raises:
        RequestError: there is one logit in all.
        CheckpointError: the last layer gives every image the same logits.
    """
    if len(source.labels) * len(images) == 1:
        raise RequestError("one image and one class give one logit, and no range to compare it by; give more --images")
    if not source.network.head.weight.any():
        raise CheckpointError("weights: the last layer is all zeros, so every image would get the same scores")


def _read(checkpoint: str, options: Options | None, progress: Progress) -> Checkpoint:
    with progress.step("read the checkpoint") as notes:
        source = read_checkpoint(checkpoint, options)
        source = replace(source, reference=usable(source.reference, source.network, source.preprocessing))
        notes.append(f"{parameters_of(source.network) / 1e6:.1f} M parameters, {len(source.labels)} classes")
    progress.detail(f"source: {source.source.kind}")
    for decision in source.decisions:
        progress.detail(str(decision), even_if_quiet=decision.is_assumed)
    for note in source.notes:
        progress.detail(note)
    progress.detail(f"reference: {source.reference.name}")
    return source


def _export(source: Checkpoint, model: Path, progress: Progress) -> tuple[StaticSwin, Engine]:
    recipe, config = source.preprocessing, source.network.config
    with progress.step("bake the constants"):
        static = StaticSwin(source.network, recipe.scale, recipe.mean, recipe.std).eval()
    with progress.step("export to ONNX") as notes:
        notes.append(f"{to_onnx(static, config.input_size, model)} nodes")
    with progress.step("open with ONNX Runtime") as notes:
        engine = open_graph(source.network.config, model)
        notes.append(engine.device_report.provider)
    return static, engine


def open_graph(config: SwinConfig, model: Path) -> Engine:
    """On the CPU, for every batch size of the proof."""
    tokens = last_map(config).positions, last_map(config).channels
    network = Network(model, input_size=config.input_size, classes=config.num_classes, tokens=tokens)
    return open_engine(network, CPU, threads=available_cpus(), buckets=BATCH_SIZES)


def _convert(
    source: Checkpoint, proof: Proof, files: tuple[Path, Path], options: PrecisionOptions, progress: Progress
) -> tuple[Engine, Ledger]:
    """From the proved graph, the first of the files, make the one that will serve, the second.

    Raises:
        PrecisionLost: it agrees with the proved one less often than it has to.
    """
    if options.precision == "fp32":
        files[0].rename(files[1])
        itself = files[1], files[1]
        return proof.engine, compare(proof.engine, proof.engine, proof.pixels, method="fp32", kept=(), files=itself)
    images = options.calibration or options.images or generated(sets=16)
    pixels = pixels_of(images, source.preprocessing)
    with progress.step(f"make it {options.precision}"):
        method, kept = convert(options.precision, *files, pixels if options.calibration else None)
        engine = open_graph(source.network.config, files[1])
    with progress.step("compare it with float32") as notes:
        if options.calibration:  # what it was calibrated on is kind to it
            pixels = np.concatenate([proof.pixels, pixels])
        ledger = compare(engine, proof.engine, pixels, method=method, kept=kept, files=files)
        for line in told(ledger):
            progress.detail(line)
        if ledger.top1_agreement < options.min_agreement:
            raise PrecisionLost(options.precision, ledger.top1_agreement, options.min_agreement, ledger.images)
        notes.append(f"top-1 agreement {ledger.top1_agreement:.1%} on {ledger.images} images")
    return engine, ledger


def _prove(
    source: Checkpoint, static: StaticSwin, engine: Engine, images: Images, progress: Progress
) -> tuple[Proof, Verified]:
    with progress.step(f"prove it equals {source.reference.name}") as notes:
        proof = Proof(source, static, engine, images)
        stages = []
        for stage in proof.stages():
            progress.stage(stage)
            stages.append(stage)
        verified = proof.verified(stages)
        notes.append(f"top-1 agreement {verified.top1_agreement:.0%} on {verified.images} images")
    return proof, verified


def _manifest(
    source: Checkpoint,
    name: str | None,
    promise: Golden,
    *,
    verified: Verified,
    evaluation: Evaluation | None,
    ledger: Ledger,
) -> Manifest:
    config = source.network.config
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=name or source.source.id.rsplit("/", 1)[-1],
        source=source.source,
        architecture=architecture_of(source.network),
        opset=OPSET,
        input_height=config.input_size[0],
        input_width=config.input_size[1],
        classes=config.num_classes,
        evidence=last_map(config),
        activation=source.activation,
        preprocessing=source.preprocessing,
        precision=PRECISIONS[ledger.method],
        ledger=ledger,
        golden=promise,
        verified=verified,
        evaluation=evaluation,
        files={},  # filled in when everything else is written
    )
