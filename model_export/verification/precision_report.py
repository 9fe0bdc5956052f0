"""What a precision gains and costs, beside the float32 graph that was proved."""

import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.bundle.manifest import BucketTime, Ledger, Method, Precision
from app.inference.engine import Engine, Logits, Pixels
from model_export.verification.images import Images
from model_export.verification.parity import LOGITS

TIMED = (1, 8)
ROUNDS = 3

MIN_AGREEMENT = 0.99
MAX_IMAGES = 256
"""To calibrate with, or to compare on: ranges and agreement have long settled then."""


@dataclass(frozen=True)
class PrecisionOptions:
    """What is asked for.

    `calibration` images make int8 calibrated. It is compared with float32 on them, else on `images`, else on generated
    pictures; below `min_agreement` it is refused.
    """

    precision: Precision = "fp32"
    calibration: Images | None = None
    images: Images | None = None
    min_agreement: float = MIN_AGREEMENT


PRECISIONS: dict[Method, Precision] = {
    "fp32": "fp32",
    "fp16": "fp16",
    "int8 dynamic": "int8",
    "int8 calibrated": "int8",
}
TOLERANCES: dict[Precision, float] = {"fp32": LOGITS, "fp16": 0.01, "int8": 0.02}
"""Of the logit range: how far a golden sample may be off on another machine, whose kernels round otherwise."""


def compare(
    engine: Engine, fp32: Engine, pixels: Pixels, *, method: Method, kept: tuple[str, ...], files: tuple[Path, Path]
) -> Ledger:
    """Run both on the images and write down what differs.

    Args:
        engine: runs the converted graph.
        fp32: runs the one it was made from.
        pixels: (images, height, width, 3).
        method: how the graph was converted.
        kept: names of the nodes that stayed in float32.
        files: the graph it was made from, and the converted one.
    """
    ours, theirs = logits(engine, pixels, 1), logits(fp32, pixels, max(fp32.buckets))
    together = logits(engine, pixels, max(engine.buckets))
    return Ledger(
        method=method,
        bytes=files[1].stat().st_size,
        fp32_bytes=files[0].stat().st_size,
        images=len(pixels),
        top1_agreement=float(np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1))),
        max_logit_difference=float(np.abs(ours - theirs).max()),
        max_batch_difference=float(np.abs(ours - together).max()),
        logit_range=float(np.ptp(theirs)),
        kept_float32=kept,
        buckets=tuple(timed(engine, fp32, pixels)),
    )


def told(ledger: Ledger) -> Iterator[str]:
    """For the person at the terminal."""
    yield f"{ledger.bytes / 1e6:.1f} MB, {ledger.fp32_bytes / 1e6:.1f} MB in float32"
    yield f"logits differ by up to {ledger.max_logit_difference / ledger.logit_range:.2g} of their range"
    for bucket in ledger.buckets:
        yield f"batch of {bucket.batch}: {bucket.milliseconds} ms, {bucket.fp32_milliseconds} ms in float32"


def logits(engine: Engine, pixels: Pixels, batch: int) -> Logits:
    """(images, classes), in batches of this size."""
    starts = range(0, len(pixels), batch)
    return np.concatenate([engine.run(pixels[start : start + batch]) for start in starts])


def timed(engine: Engine, fp32: Engine, pixels: Pixels) -> Iterable[BucketTime]:
    """Medians, taken in turn: whatever else the machine does meets both."""
    for size in TIMED:
        batch = np.resize(pixels, (size, *pixels.shape[1:]))
        seconds: dict[Engine, list[float]] = {engine: [], fp32: []}
        for _ in range(ROUNDS + 1):
            for each, taken in seconds.items():
                started = time.perf_counter()
                each.run(batch)
                taken.append(time.perf_counter() - started)
        own, other = (statistics.median(taken[1:]) * 1e3 for taken in (seconds[engine], seconds[fp32]))
        yield BucketTime(batch=size, milliseconds=round(own, 2), fp32_milliseconds=round(other, 2))
