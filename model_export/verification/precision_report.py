"""The comparison of a converted graph with the float32 graph: size, agreement and time. Converts nothing."""

import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.bundle.manifest import BucketTime, Ledger, Method, Precision
from app.inference.engine import Engine, Logits, Pixels
from model_export.verification.images import Images
from model_export.verification.parity import LOGIT_TOLERANCE

# Batch sizes that are timed.
TIMED_BATCHES = (1, 8)
# Number of timed runs per batch size, after one run to warm up.
TIMED_RUNS = 3
# Default share of images for which both graphs must give the same best class.
MIN_AGREEMENT = 0.99
# Maximum number of images to calibrate with or to compare on. Ranges and agreement change little beyond this number.
MAX_IMAGES = 256


@dataclass(frozen=True)
class PrecisionOptions:
    """The requested precision.

    Attributes:
        precision: the precision of the graph in the bundle.
        calibration: images to calibrate int8 with. Without them, int8 is dynamic.
        images: images to compare with float32 on, if there are no calibration images. The default are generated
            images.
        min_agreement: the minimum share of images for which both graphs give the same best class.
    """

    precision: Precision = "fp32"
    calibration: Images | None = None
    images: Images | None = None
    min_agreement: float = MIN_AGREEMENT


# Conversion method → precision.
PRECISIONS: dict[Method, Precision] = {
    "fp32": "fp32",
    "fp16": "fp16",
    "int8 dynamic": "int8",
    "int8 calibrated": "int8",
}
# Tolerances of the golden logits, as shares of the logit range. The kernels of another machine round differently.
TOLERANCES: dict[Precision, float] = {"fp32": LOGIT_TOLERANCE, "fp16": 0.01, "int8": 0.02}


def compare_with_float32(
    engine: Engine, fp32: Engine, pixels: Pixels, *, method: Method, kept: tuple[str, ...], files: tuple[Path, Path]
) -> Ledger:
    """Run both graphs on the images, and report their differences.

    Args:
        engine: an engine of the converted graph.
        fp32: an engine of the float32 graph.
        pixels: the images, `(images, height, width, 3)`.
        method: the conversion method.
        kept: the names of the nodes that stayed in float32.
        files: the float32 graph and the converted graph.
    """
    logits = run_in_batches(engine, pixels, 1)
    expected = run_in_batches(fp32, pixels, max(fp32.buckets))
    batched = run_in_batches(engine, pixels, max(engine.buckets))
    return Ledger(
        method=method,
        bytes=files[1].stat().st_size,
        fp32_bytes=files[0].stat().st_size,
        images=len(pixels),
        top1_agreement=float(np.mean(logits.argmax(axis=1) == expected.argmax(axis=1))),
        max_logit_difference=float(np.abs(logits - expected).max()),
        max_batch_difference=float(np.abs(logits - batched).max()),
        logit_range=float(np.ptp(expected)),
        kept_float32=kept,
        buckets=tuple(time_batches(engine, fp32, pixels)),
    )


def summary_lines(report: Ledger) -> Iterator[str]:
    """Yield the lines of the report for the terminal."""
    yield f"{report.bytes / 1e6:.1f} MB, {report.fp32_bytes / 1e6:.1f} MB in float32"
    yield f"logits differ by up to {report.max_logit_difference / report.logit_range:.2g} of their range"
    for bucket in report.buckets:
        yield f"batch of {bucket.batch}: {bucket.milliseconds} ms, {bucket.fp32_milliseconds} ms in float32"


def run_in_batches(engine: Engine, pixels: Pixels, batch: int) -> Logits:
    """Run the images in batches of this size. Return the logits, `(images, classes)`."""
    starts = range(0, len(pixels), batch)
    return np.concatenate([engine.run(pixels[start : start + batch]) for start in starts])


def time_batches(engine: Engine, fp32: Engine, pixels: Pixels) -> Iterable[BucketTime]:
    """Yield the median time of each batch size.

    The runs of both engines alternate, so that other load on the machine slows down both.
    """
    for size in TIMED_BATCHES:
        batch = np.resize(pixels, (size, *pixels.shape[1:]))
        seconds: dict[Engine, list[float]] = {engine: [], fp32: []}
        for _ in range(TIMED_RUNS + 1):
            for each, times in seconds.items():
                started = time.perf_counter()
                each.run(batch)
                times.append(time.perf_counter() - started)
        median, fp32_median = (statistics.median(times[1:]) * 1e3 for times in (seconds[engine], seconds[fp32]))
        yield BucketTime(batch=size, milliseconds=round(median, 2), fp32_milliseconds=round(fp32_median, 2))
