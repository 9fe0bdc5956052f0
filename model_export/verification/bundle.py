"""`swin-export verify`: the proof of a bundle that exists, again, on this machine.

    files             every file                       against its digest in the manifest
    device            where the session runs           against where it was asked to run; input, output
    golden pixels     the images of the bundle         against their digests
    golden logits     the graph, on this device        against the logits in the bundle
    evidence          the maps of each class, summed   against the logits
    batch of n        every row                        against the same row in a batch of 1

With the checkpoint also everything that `parity.py` compares, from the source library's own network on.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from app.bundle.load import Bundle, load_bundle
from app.bundle.manifest import MANIFEST, Manifest, Stage
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
from model_export.errors import ProofFailed, RequestError
from model_export.network.architecture import architecture_of
from model_export.network.static import StaticSwin
from model_export.verification.parity import LOGITS, Proof, passed
from model_export.verification.precision_report import TOLERANCES


def verify_bundle(
    folder: Path,
    *,
    checkpoint: str | None = None,
    options: Options | None = None,
    device: Device = CPU,
    progress: Progress,
) -> None:
    """Prove a bundle again.

    Args:
        folder: the bundle.
        checkpoint: what it was made of, to be compared with as when it was made.
        options: with which it was made.
        device: where to run.
        progress: told of every stage.

    Raises:
        ProofFailed: at the first stage that does not pass, by name.
        RequestError: there is no bundle, or the checkpoint cannot be read.
    """
    if not (folder / MANIFEST).is_file():
        raise RequestError(f"there is no bundle at {folder}")
    with progress.step("files") as notes, _stage("files"):
        bundle = load_bundle(folder)
        notes.append(f"{len(bundle.manifest.files)} as the manifest describes them")
    with progress.step("device") as notes, _stage("device"):
        engine = open_unverified(bundle, device, available_cpus(), bundle.manifest.verified.batch_sizes)
        notes.append(
            ", ".join(f"{count} nodes on {provider}" for provider, count in engine.device_report.nodes.items())
        )
    with progress.step("golden pixels") as notes, _stage("golden pixels"):
        pixels = golden_pixels(bundle)
        notes.append(f"{len(pixels)} images become what they became at export")
    with progress.step("golden logits"):
        for stage in _stages(bundle, engine, pixels):
            progress.stage(passed(stage))
    if checkpoint is not None:
        _against(checkpoint, options, bundle, engine, progress)


def _stages(bundle: Bundle, engine: Engine, pixels: Pixels) -> Iterator[Stage]:
    tolerance = bundle.manifest.golden.tolerance
    pairs = [engine.run_with_tokens(image[None]) for image in pixels]
    alone = np.concatenate([logits for logits, _ in pairs])
    yield _logits("golden logits", "the bundle", alone, bundle.golden_logits, tolerance)
    sums = np.stack([contributions(tokens[0], bundle.head).sum(axis=1) for _, tokens in pairs])
    yield _logits("evidence", "the logits", sums, alone, LOGITS * bundle.manifest.verified.logit_range)
    tolerance += bundle.manifest.ledger.max_batch_difference
    for size in sorted({*bundle.manifest.verified.batch_sizes} - {1}):
        rows = np.arange(size) % len(pixels)  # repeats the images to fill it
        yield _logits(f"batch of {size}", "a batch of 1", engine.run(pixels[rows]), alone[rows], tolerance)


def _logits(name: str, against: str, ours: Logits, theirs: Logits, tolerance: float) -> Stage:
    difference = float(np.abs(ours - theirs).max())
    return Stage(name=name, against=against, unit="logits", difference=difference, tolerance=tolerance)


def _against(checkpoint: str, options: Options | None, bundle: Bundle, engine: Engine, progress: Progress) -> None:
    with progress.step("read the checkpoint"):
        source = read_checkpoint(checkpoint, options)
        source = replace(source, reference=usable(source.reference, source.network, source.preprocessing))
        _check_same(source, bundle)
    with progress.step(f"prove it equals {source.reference.name}"):
        recipe = source.preprocessing
        static = StaticSwin(source.network, recipe.scale, recipe.mean, recipe.std).eval()
        images = {Path(name).stem: image for name, image in golden_pictures(bundle).items()}
        for stage in Proof(source, static, engine, images, _tolerance(bundle.manifest)).stages():
            progress.stage(stage)


def _tolerance(manifest: Manifest) -> float:
    """Of the logit range: in another precision the graph is about as far from the checkpoint as the ledger says."""
    ledger = manifest.ledger
    known = max(ledger.max_logit_difference, ledger.max_batch_difference) / ledger.logit_range
    return LOGITS if manifest.precision == "fp32" else known + TOLERANCES[manifest.precision]


def _check_same(source: Checkpoint, bundle: Bundle) -> None:
    """Else the stages would fail for a reason they do not name."""
    manifest = bundle.manifest
    ours = {
        "weights": (source.source.weights_sha256, manifest.source.weights_sha256),
        "architecture": (architecture_of(source.network), manifest.architecture),
        "input size": (source.network.config.input_size, (manifest.input_height, manifest.input_width)),
        "preprocessing": (source.preprocessing, manifest.preprocessing),
        "labels": (source.labels, bundle.labels),
        "activation": (source.activation, manifest.activation),
    }
    for name, (theirs, own) in ours.items():
        if theirs != own:
            raise ProofFailed(name, "the checkpoint's are not the bundle's; was it built with other options?")


@contextlib.contextmanager
def _stage(name: str) -> Iterator[None]:
    try:
        yield
    except StartError as error:
        raise ProofFailed(name, str(error)) from error
