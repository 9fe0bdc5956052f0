"""The measurement of a bundle's accuracy on labeled images, with the code of the service (`swin-export evaluate`).

Threads decode files ahead of the engine, which runs batch after batch: see `app.scoring.pipeline`.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from app.bundle.load import Bundle, load_bundle
from app.classification.ranking import top_k
from app.images.decode import Limits
from app.images.reading import ImageReader
from app.inference.engine import Engine
from app.inference.self_test import open_verified
from app.scoring.items import Item, pixels_of
from app.scoring.pipeline import Pixels, run_chunks
from app.scoring.progress import bar
from app.system.cpus import available_cpus
from app.system.device import CPU, Device
from model_export.console import percent, table
from model_export.errors import ExportError
from model_export.evaluation import dataset, scores
from model_export.evaluation.dataset import LabeledImage
from model_export.evaluation.published import Published, published
from model_export.evaluation.scores import ClassScore, Confusion, Share

# Maximum number of rows of a table on the terminal. The JSON report has all rows.
MAX_ROWS = 10

# Number of classes of the top-5 accuracy, which is reported only for bundles with more classes.
TOP_K = 5


class Prediction(NamedTuple):
    """The prediction for one image: the class of the image, the most likely class, and its score."""

    target: int
    predicted: int
    confidence: float
    is_in_top5: bool


class Unreadable(NamedTuple):
    """A file that is not an image, or is a damaged image."""

    path: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The result of an evaluation. Values that do not apply to the bundle are None."""

    bundle: Bundle
    device: str
    images_per_second: float
    unreadable: Sequence[Unreadable]
    top1: Share
    top5: Share | None
    mean_confidence: float
    calibration_error: float | None
    published: Published | None
    classes: Sequence[ClassScore]  # the worst first
    confusions: Sequence[Confusion]  # the most frequent first

    def document(self) -> dict[str, Any]:
        """Return the complete report as a JSON object."""
        return {
            "bundle": self.bundle.manifest.name,
            "source": self.bundle.manifest.source.id,
            "precision": self.bundle.manifest.precision,
            "device": self.device,
            "images": self.top1.of,
            "images_per_second": round(self.images_per_second, 1),
            "top1": asdict(self.top1),
            "top5": self.top5 and asdict(self.top5),
            "mean_confidence": self.mean_confidence,
            "expected_calibration_error": self.calibration_error,
            "published": self.published and asdict(self.published),
            "unreadable": [one._asdict() for one in self.unreadable],
            "classes": [
                {
                    **asdict(one),
                    "label": self.label(one.index),
                    "wnid": self.bundle.labels[one.index].wnid,
                    "top1": one.top1,
                }
                for one in self.classes
            ],
            "confusions": [
                {**asdict(one), "label": self.label(one.index), "taken_for_label": self.label(one.taken_for)}
                for one in self.confusions
            ],
        }

    def label(self, index: int) -> str:
        """Return the name of a class."""
        return self.bundle.labels[index].name


def evaluate(
    folder: Path,
    data: Path,
    *,
    device: Device = CPU,
    batch: int = 8,
    limit: int | None = None,
    classes: Sequence[str] = (),
    quiet: bool = False,
) -> Report:
    """Classify labeled images, and compare the predictions with the labels.

    Args:
        folder: the bundle.
        data: a folder with one folder per class, or a CSV file: see `model_export.evaluation.dataset`.
        device: the device to run on. It is verified as by the service.
        batch: the number of images per run of the network.
        limit: the maximum number of images, evenly spread. The default is all images.
        classes: the classes to evaluate. The default is all classes.
        quiet: whether to hide the progress bar.

    Raises:
        BundleError: the bundle cannot be opened.
        DeviceError: the device cannot be used.
        RequestError: the class of an image is unknown.
        ExportError: no image can be read.
    """
    bundle = load_bundle(folder)
    images = dataset.list_images(data, bundle.labels, classes)
    if limit is not None:
        images = dataset.subsample(images, limit)
    engine = open_verified(bundle, device, available_cpus(), (1, batch))
    started = time.perf_counter()
    predictions, unreadable = _predictions(bundle, engine, images, batch, quiet=quiet)
    seconds = time.perf_counter() - started
    if not predictions:
        raise ExportError(f"none of the {len(images)} images can be read: {unreadable[0].path}: {unreadable[0].reason}")
    return _report(bundle, str(engine.device_report.device), len(images) / seconds, predictions, unreadable)


def _predictions(
    bundle: Bundle, engine: Engine, images: Sequence[LabeledImage], batch: int, *, quiet: bool
) -> tuple[list[Prediction], list[Unreadable]]:
    manifest = bundle.manifest
    predictions: list[Prediction] = []
    unreadable: list[Unreadable] = []
    reader = ImageReader(manifest.preprocessing, Limits())

    def decode(image: LabeledImage) -> Pixels | str:
        return pixels_of(Item(str(image.path), image.path), reader)

    def run(pixels: Sequence[Pixels]) -> Sequence[NDArray[np.float32]]:
        return [*engine.run(pixels)]

    with bar(Console(stderr=True, quiet=quiet)) as shown:
        task = shown.add_task("evaluate", total=len(images))
        for chunk in run_chunks(images, decode, [run], batch=batch, threads=available_cpus()):
            for image, result in zip(chunk.items, chunk.results, strict=True):
                if isinstance(result, str):
                    unreadable.append(Unreadable(str(image.path), result))
                else:
                    ranked = top_k(result, TOP_K, manifest.activation)
                    predictions.append(Prediction(image.target, *ranked[0], image.target in dict(ranked)))
            shown.advance(task, len(chunk.items))
    return predictions, unreadable


def _report(
    bundle: Bundle, device: str, rate: float, predictions: Sequence[Prediction], unreadable: Sequence[Unreadable]
) -> Report:
    targets, predicted = (np.array([prediction[column] for prediction in predictions]) for column in (0, 1))
    confidences = np.array([prediction.confidence for prediction in predictions])
    is_exclusive = bundle.manifest.activation == "softmax"
    return Report(
        bundle=bundle,
        device=device,
        images_per_second=rate,
        unreadable=unreadable,
        top1=scores.share(targets == predicted),
        top5=scores.share(np.array([prediction.is_in_top5 for prediction in predictions]))
        if bundle.manifest.classes > TOP_K
        else None,
        mean_confidence=float(confidences.mean()),
        calibration_error=scores.calibration_error(confidences, targets == predicted) if is_exclusive else None,
        published=published(bundle.manifest),
        classes=scores.class_scores(targets, predicted),
        confusions=scores.confusions(targets, predicted),
    )


def show(report: Report, console: Console) -> None:
    """Print the report as tables. Long tables show their first rows only."""
    console.print(table("", ("", ""), _figures(report)))
    worst = [one for one in report.classes if one.top1 < 1]
    if worst:
        rows = [(report.label(one.index), str(one.images), percent(one.top1)) for one in worst[:MAX_ROWS]]
        console.print(table(_title("worst classes", worst), ("class", "images", "top-1"), rows))
    if report.confusions:
        pairs = [
            (report.label(one.index), report.label(one.taken_for), str(one.images))
            for one in report.confusions[:MAX_ROWS]
        ]
        console.print(table(_title("confusions", report.confusions), ("class", "predicted as", "images"), pairs))
    if report.unreadable:
        files = [(one.path, one.reason) for one in report.unreadable[:MAX_ROWS]]
        console.print(table(_title("unreadable files", report.unreadable), ("file", "reason"), files))


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    yield "bundle", f"{report.bundle.manifest.name}, {report.bundle.manifest.precision} on {report.device}"
    yield "images", f"{report.top1.of}, {report.images_per_second:.1f} per second"
    for name, measured in (("top-1", report.top1), ("top-5", report.top5)):
        if measured:
            published_share = getattr(report.published, name.replace("-", ""), None)
            suffix = f"; published: {percent(published_share)}" if published_share is not None else ""
            yield name, f"{percent(measured.value)} ({percent(measured.low)} to {percent(measured.high)}){suffix}"
    yield "mean confidence", percent(report.mean_confidence)
    error = report.calibration_error
    yield (
        "calibration error",
        percent(error) if error is not None else "does not apply, because classes do not exclude each other",
    )
    if report.published:
        yield "published", f"for the validation images of ImageNet-1k, by {report.published.source}"


def _title(name: str, rows: Sequence[Any]) -> str:
    return f"{name}, the first {MAX_ROWS} of {len(rows)}" if len(rows) > MAX_ROWS else name
