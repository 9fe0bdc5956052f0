"""The recipe of `swin-export build`: read, bake, export, open, verify, convert, write."""

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
    Method,
    Verified,
)
from app.inference import onnx_runtime
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
from model_export.checkpoints.checkpoint import ASSUMED, Checkpoint, Options, warnings
from model_export.checkpoints.detect import read_checkpoint
from model_export.checkpoints.reference import usable
from model_export.console import Progress
from model_export.errors import CheckpointError, PrecisionLost, RequestError
from model_export.network.architecture import architecture_of, last_map, parameter_count
from model_export.network.static import StaticSwin
from model_export.network.swin import SwinConfig
from model_export.onnx_graph.export import OPSET, to_onnx
from model_export.onnx_graph.fp16 import write_fp16
from model_export.onnx_graph.int8 import write_int8
from model_export.verification.images import Images, generate_images, preprocess_images
from model_export.verification.parity import BATCH_SIZES, ParityCheck
from model_export.verification.precision_report import (
    PRECISIONS,
    TOLERANCES,
    PrecisionOptions,
    compare_with_float32,
    run_in_batches,
    summary_lines,
)

# Bytes of one parameter in the float32 graph.
BYTES_PER_PARAMETER = 4
# Upper estimate of the bytes of one golden sample: 640×640 pixels as PNG, with a margin.
GOLDEN_BYTES = 1_300_000
# Number of generated image sets to compare fp16 and int8 with float32 on, if no images are given.
GENERATED_SETS = 16


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
    """Export a checkpoint to a bundle, and verify that both compute the same.

    Args:
        checkpoint: a folder, a file of weights, or the id of a repository on the Hugging Face Hub.
        output: the folder of the bundle. It appears only after the verification has passed.
        options: settings that the checkpoint lacks, or that override the settings of the checkpoint.
        images: images to verify on and to keep as golden samples. The default are generated images.
        name: the name of the bundle. The default is the name of the checkpoint.
        evaluation: a measured accuracy, for the manifest.
        precision: the precision of the graph in the bundle. The default is float32.
        replace: whether an existing bundle at `output` may be replaced.
        progress: the writer of the steps.

    Raises:
        ExportError: a step failed. `output` is unchanged.
    """
    onnx_runtime.load()  # with telemetry off, before transformers imports it with telemetry on
    with bundle_folder(output, replace=replace) as folder:
        source = _read(checkpoint, options, progress)
        precision = precision or PrecisionOptions()
        images = images or generate_images()
        check_comparable(source, images)
        copies = 1 if precision.precision == "fp32" else 2
        check_space(output, copies * parameter_count(source.network) * BYTES_PER_PARAMETER + len(images) * GOLDEN_BYTES)
        fp32 = folder.with_name("fp32.onnx")  # in the temporary folder, which is removed at the end
        static, engine = _export(source, fp32, progress)
        check, verified = _verify(source, static, engine, images, progress)
        served, report = _convert(source, check, (fp32, folder / MODEL), precision, progress)
        with progress.step("write the bundle") as notes:
            logits = run_in_batches(served, check.pixels, 1)
            samples = write_golden(folder, check.images, check.pixels, logits)
            tolerance = TOLERANCES[precision.precision] * check.logit_range
            golden = Golden(samples=tuple(samples), tolerance=tolerance)
            write_labels(folder, source.labels)
            write_head(folder, check.head)
            manifest = _manifest(source, name, golden, verified=verified, evaluation=evaluation, report=report)
            write_manifest(folder, manifest)
            notes.append(f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:.1f} MB")


def check_comparable(source: Checkpoint, images: Images) -> None:
    """Raise before the export if all logits would be equal, because the verification could not compare them.

    Raises:
        RequestError: there is one logit in all.
        CheckpointError: the last layer gives every image the same logits.
    """
    if len(source.labels) * len(images) == 1:
        raise RequestError("one image and one class give one logit, which has no range to compare by; add --images")
    if not source.network.head.weight.any():
        raise CheckpointError("weights: the last layer is all zeros, so every image would get the same scores")


def open_cpu_engine(config: SwinConfig, model: Path) -> Engine:
    """Open the exported graph on the CPU, for every batch size of the verification."""
    tokens = last_map(config).positions, last_map(config).channels
    network = Network(model, input_size=config.input_size, classes=config.num_classes, tokens=tokens)
    return open_engine(network, CPU, threads=available_cpus(), buckets=BATCH_SIZES)


def _read(checkpoint: str, options: Options | None, progress: Progress) -> Checkpoint:
    with progress.step("read the checkpoint") as notes:
        source = read_checkpoint(checkpoint, options)
        notes.append(f"{source.source.kind}, {parameter_count(source.network) / 1e6:.1f} M parameters")
    # Before the long steps, so that wrong preprocessing or labels are seen while the export can still be stopped.
    progress.show_table(("", "value", "from"), (each.row() for each in source.decisions), marked=ASSUMED)
    for warning in warnings(source.decisions):
        progress.warn(warning)
    for note in source.notes:
        progress.log(note)
    with progress.step("open the reference") as notes:
        source = replace(source, reference=usable(source.reference, source.network, source.preprocessing))
        notes.append(source.reference.name)
    return source


def _export(source: Checkpoint, model: Path, progress: Progress) -> tuple[StaticSwin, Engine]:
    recipe, config = source.preprocessing, source.network.config
    with progress.step("bake the constants"):
        static = StaticSwin(source.network, recipe.scale, recipe.mean, recipe.std).eval()
    with progress.step("export to ONNX") as notes:
        notes.append(f"{to_onnx(static, config.input_size, model)} nodes")
    with progress.step("open with ONNX Runtime") as notes:
        engine = open_cpu_engine(source.network.config, model)
        notes.append(engine.device_report.provider)
    return static, engine


def _verify(
    source: Checkpoint, static: StaticSwin, engine: Engine, images: Images, progress: Progress
) -> tuple[ParityCheck, Verified]:
    with progress.step(f"compare with {source.reference.name}") as notes:
        check = ParityCheck(source, static, engine, images)
        stages = []
        for stage in check.stages():
            progress.log_stage(stage)
            stages.append(stage)
        verified = check.verified(stages)
        notes.append(f"top-1 agreement {verified.top1_agreement:.0%} on {verified.images} images")
    return check, verified


def _convert(
    source: Checkpoint, check: ParityCheck, files: tuple[Path, Path], options: PrecisionOptions, progress: Progress
) -> tuple[Engine, Ledger]:
    """Convert the verified graph, the first of the files, to the served graph, the second.

    Raises:
        PrecisionLost: the two graphs agree on fewer images than `options` demand.
    """
    if options.precision == "fp32":
        files[0].rename(files[1])
        both = files[1], files[1]
        report = compare_with_float32(check.engine, check.engine, check.pixels, method="fp32", kept=(), files=both)
        return check.engine, report
    images = options.calibration or options.images or generate_images(sets=GENERATED_SETS)
    pixels = preprocess_images(images, source.preprocessing)
    with progress.step(f"convert to {options.precision}"):
        method: Method
        if options.precision == "fp16":
            method, kept = "fp16", write_fp16(*files)
        elif options.calibration:
            method, kept = "int8 calibrated", write_int8(*files, pixels)
        else:
            method, kept = "int8 dynamic", write_int8(*files)
        engine = open_cpu_engine(source.network.config, files[1])
    with progress.step("compare with float32") as notes:
        if options.calibration:
            # The agreement on calibration images alone would be too optimistic.
            pixels = np.concatenate([check.pixels, pixels])
        report = compare_with_float32(engine, check.engine, pixels, method=method, kept=kept, files=files)
        for line in summary_lines(report):
            progress.log(line)
        if report.top1_agreement < options.min_agreement:
            raise PrecisionLost(options.precision, report.top1_agreement, options.min_agreement, report.images)
        notes.append(f"top-1 agreement {report.top1_agreement:.1%} on {report.images} images")
    return engine, report


def _manifest(
    source: Checkpoint,
    name: str | None,
    golden: Golden,
    *,
    verified: Verified,
    evaluation: Evaluation | None,
    report: Ledger,
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
        precision=PRECISIONS[report.method],
        ledger=report,
        golden=golden,
        verified=verified,
        evaluation=evaluation,
        files={},  # `write_manifest` fills this in
    )
