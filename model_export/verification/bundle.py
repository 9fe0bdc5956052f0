"""The verification of an existing bundle on this machine (`swin-export verify`).

    stage             compared                           with
    files             every file                         its digest in the manifest
    device            the provider of each node          the requested device
    golden pixels     the images of the bundle           their digests in the manifest
    golden logits     the graph on this device           the logits in the bundle
    evidence          the sum of each evidence map       the logits
    embedding         the head applied to an embedding   the logits
    batch of n        every row of a batch               the same row in a batch of 1

With the checkpoint, the stages of `parity.py` follow. They begin with the preprocessing of the source library.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from app.bundle.load import Bundle, load_bundle
from app.bundle.manifest import MANIFEST, Manifest, Stage
from app.classification.embedding import mean_token
from app.classification.evidence import contributions
from app.errors import StartError
from app.inference.engine import Engine, Logits, Pixels
from app.inference.self_test import golden_pictures, golden_pixels, open_unverified
from app.system.cpus import available_cpus
from app.system.device import CPU, Device
from model_export.checkpoints.checkpoint import Checkpoint, Options
from model_export.checkpoints.detect import read_checkpoint
from model_export.checkpoints.reference import usable
from model_export.console import Progress
from model_export.errors import RequestError, VerificationFailed
from model_export.network.architecture import architecture_of
from model_export.network.static import StaticSwin
from model_export.verification.parity import LOGIT_TOLERANCE, ParityCheck, check_tolerance
from model_export.verification.precision_report import TOLERANCES


def verify_bundle(
    folder: Path,
    *,
    checkpoint: str | None = None,
    options: Options | None = None,
    device: Device = CPU,
    progress: Progress,
) -> None:
    """Verify a bundle on a device, and optionally against its checkpoint.

    Args:
        folder: the bundle.
        checkpoint: the checkpoint from which the bundle was built.
        options: the options with which the bundle was built.
        device: the device to run on.
        progress: the writer of the stages.

    Raises:
        VerificationFailed: a stage found a difference. The message names the stage.
        RequestError: there is no bundle, or the checkpoint cannot be read.
    """
    if not (folder / MANIFEST).is_file():
        raise RequestError(f"there is no bundle at {folder}")
    with progress.step("files") as notes, _stage("files"):
        bundle = load_bundle(folder)
        notes.append(f"{len(bundle.manifest.files)} files equal the manifest")
    with progress.step("device") as notes, _stage("device"):
        engine = open_unverified(bundle, device, available_cpus(), bundle.manifest.verified.batch_sizes)
        notes.append(
            ", ".join(f"{count} nodes on {provider}" for provider, count in engine.device_report.nodes.items())
        )
    with progress.step("golden pixels") as notes, _stage("golden pixels"):
        pixels = golden_pixels(bundle)
        notes.append(f"{len(pixels)} images decode to the same pixels as at export")
    with progress.step("golden logits"):
        for stage in _stages(bundle, engine, pixels):
            progress.log_stage(check_tolerance(stage))
    if checkpoint is not None:
        _compare_with_checkpoint(checkpoint, options, bundle, engine, progress)


def _stages(bundle: Bundle, engine: Engine, pixels: Pixels) -> Iterator[Stage]:
    tolerance = bundle.manifest.golden.tolerance
    pairs = [engine.run_with_tokens(image[None]) for image in pixels]
    alone = np.concatenate([logits for logits, _ in pairs])
    yield _logits_stage("golden logits", "the bundle", alone, bundle.golden_logits, tolerance)
    head, rounding = bundle.head, LOGIT_TOLERANCE * bundle.manifest.verified.logit_range
    sums = np.stack([contributions(tokens[0], head).sum(axis=1) for _, tokens in pairs])
    yield _logits_stage("evidence", "the logits", sums, alone, rounding)
    headed = np.stack([head.weight @ mean_token(tokens[0]) + head.bias for _, tokens in pairs])
    yield _logits_stage("embedding", "the logits", headed, alone, rounding)
    tolerance += bundle.manifest.ledger.max_batch_difference
    for size in sorted({*bundle.manifest.verified.batch_sizes} - {1}):
        rows = np.arange(size) % len(pixels)  # repeat the images to fill the batch
        yield _logits_stage(f"batch of {size}", "a batch of 1", engine.run(pixels[rows]), alone[rows], tolerance)


def _logits_stage(name: str, against: str, actual: Logits, expected: Logits, tolerance: float) -> Stage:
    difference = float(np.abs(actual - expected).max())
    return Stage(name=name, against=against, unit="logits", difference=difference, tolerance=tolerance)


def _compare_with_checkpoint(
    checkpoint: str, options: Options | None, bundle: Bundle, engine: Engine, progress: Progress
) -> None:
    """Prove the bundle against its checkpoint. Raises at the first stage above its tolerance."""
    with progress.step("read the checkpoint"):
        source = read_checkpoint(checkpoint, options)
        source = replace(source, reference=usable(source.reference, source.network, source.preprocessing))
        _check_same(source, bundle)
    with progress.step(f"compare with {source.reference.name}"):
        recipe = source.preprocessing
        static = StaticSwin(source.network, recipe.scale, recipe.mean, recipe.std).eval()
        images = {Path(name).stem: image for name, image in golden_pictures(bundle).items()}
        for stage in ParityCheck(source, static, engine, images, _tolerance(bundle.manifest)).stages():
            progress.log_stage(stage)


def _tolerance(manifest: Manifest) -> float:
    """Return the tolerance of the graph against the checkpoint, as a share of the logit range.

    In fp16 and int8, the difference that was measured at export is added to the tolerance of the precision.
    """
    if manifest.precision == "fp32":
        return LOGIT_TOLERANCE
    report = manifest.ledger
    measured = max(report.max_logit_difference, report.max_batch_difference) / report.logit_range
    return measured + TOLERANCES[manifest.precision]


def _check_same(source: Checkpoint, bundle: Bundle) -> None:
    """Raise if the checkpoint is not that of the bundle, because later stages would fail without naming the cause."""
    manifest = bundle.manifest
    pairs = {
        "weights": (source.source.weights_sha256, manifest.source.weights_sha256),
        "architecture": (architecture_of(source.network), manifest.architecture),
        "input size": (source.network.config.input_size, (manifest.input_height, manifest.input_width)),
        "preprocessing": (source.preprocessing, manifest.preprocessing),
        "labels": (source.labels, bundle.labels),
        "activation": (source.activation, manifest.activation),
    }
    for name, (of_checkpoint, of_bundle) in pairs.items():
        if of_checkpoint != of_bundle:
            raise VerificationFailed(
                name, "the checkpoint and the bundle differ; give the options that the bundle was built with"
            )


@contextlib.contextmanager
def _stage(name: str) -> Iterator[None]:
    try:
        yield
    except StartError as error:
        raise VerificationFailed(name, str(error)) from error
