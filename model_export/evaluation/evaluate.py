"""`swin-export evaluate`: how good a bundle is on labeled images, by the very code that serves it.

Files are decoded by a few threads ahead of the engine, which takes batch after batch: never are more images in memory
than those of three batches, and one for each thread.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from app.bundle.load import Bundle, load_bundle
from app.bundle.manifest import Preprocessing
from app.classification.ranking import top_k
from app.errors import ServiceError
from app.images.preprocess import decode_pixels
from app.inference.engine import Engine
from app.inference.self_test import open_verified
from app.system.cpus import available_cpus
from app.system.device import CPU, Device
from model_export.console import percent, table
from model_export.errors import ExportError
from model_export.evaluation import dataset, scores
from model_export.evaluation.dataset import LabeledImage
from model_export.evaluation.published import Published, published
from model_export.evaluation.scores import ClassScore, Confusion, Share

Pixels = NDArray[np.uint8]  # height, width, 3

MAX_ROWS = 10
"""Of a table on the terminal; the report has all."""

SEVERAL = 5
"""Of more classes than this, it is worth telling whether the right one is among the first five."""


class Answer(NamedTuple):
    """What the bundle said of one image: the class it found most likely, and how sure it was."""

    device_report: int
    best: int
    confidence: float
    is_among_five: bool


class Unreadable(NamedTuple):
    """A file that is no image, or a damaged one."""

    path: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What was measured; the calibration error and what was published are None where there is none."""

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
        """All of it, for JSON."""
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
        """The name of a class."""
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
    """Classify labeled images and compare.

    Args:
        folder: the bundle.
        data: a folder with a folder for each class, or a CSV file: see `model_export.evaluation.dataset`.
        device: where to run; proved to be there, as the service proves it.
        batch: images in one run of the network.
        limit: take so many images, evenly spread.
        classes: take the images of these only.
        quiet: show no progress.

    Raises:
        BundleError, DeviceError: the bundle cannot be opened on this device.
        RequestError: what class an image is of cannot be told.
        ExportError: not one image could be read.
    """
    bundle = load_bundle(folder)
    images = dataset.read(data, bundle.labels, classes)
    if limit is not None:
        images = dataset.subsample(images, limit)
    engine = open_verified(bundle, device, available_cpus(), (1, batch))
    started = time.perf_counter()
    answers, unreadable = _answers(bundle, engine, images, batch, quiet=quiet)
    seconds = time.perf_counter() - started
    if not answers:
        raise ExportError(f"none of the {len(images)} images can be read: {unreadable[0].path}: {unreadable[0].reason}")
    return _report(bundle, str(engine.device_report.device), len(images) / seconds, answers, unreadable)


def _answers(
    bundle: Bundle, engine: Engine, images: Sequence[LabeledImage], batch: int, *, quiet: bool
) -> tuple[list[Answer], list[Unreadable]]:
    manifest = bundle.manifest
    answers: list[Answer] = []
    unreadable: list[Unreadable] = []
    waiting: list[tuple[int, Pixels]] = []

    def run() -> None:
        logits = engine.run(np.stack([pixels for _, pixels in waiting]))
        for (device_report, _), row in zip(waiting, logits, strict=True):
            ranked = top_k(row, SEVERAL, manifest.activation)
            answers.append(Answer(device_report, *ranked[0], device_report in dict(ranked)))
        waiting.clear()

    with _bar(quiet=quiet) as bar:
        task = bar.add_task("evaluate", total=len(images))
        for image, decoded in _decoded(images, manifest.preprocessing, ahead=2 * batch):
            if isinstance(decoded, str):
                unreadable.append(Unreadable(str(image.path), decoded))
            else:
                waiting.append((image.device_report, decoded))
            if len(waiting) == batch:
                run()
            bar.advance(task)
        if waiting:
            run()
    return answers, unreadable


def _decoded(
    images: Sequence[LabeledImage], recipe: Preprocessing, ahead: int
) -> Iterator[tuple[LabeledImage, Pixels | str]]:
    """In order, each with its pixels or the reason why there are none; so many are decoded ahead of the caller."""
    threads = available_cpus()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        begun: deque[tuple[LabeledImage, Future[Pixels | str]]] = deque()
        for image in images:
            begun.append((image, pool.submit(_pixels, image.path, recipe)))
            if len(begun) > ahead + threads:
                first, future = begun.popleft()
                yield first, future.result()
        for last, future in begun:
            yield last, future.result()


def _pixels(path: Path, recipe: Preprocessing) -> Pixels | str:
    try:
        return decode_pixels(path.read_bytes(), recipe)
    except ServiceError as error:
        return error.detail
    except OSError as error:
        return error.strerror or "cannot be read"
    except ValueError as error:  # a path with a NUL in it
        return str(error)


def _report(
    bundle: Bundle, device: str, rate: float, answers: Sequence[Answer], unreadable: Sequence[Unreadable]
) -> Report:
    device_report, best = (np.array([answer[column] for answer in answers]) for column in (0, 1))
    confidences = np.array([answer.confidence for answer in answers])
    excludes = bundle.manifest.activation == "softmax"
    return Report(
        bundle=bundle,
        device=device,
        images_per_second=rate,
        unreadable=unreadable,
        top1=scores.share(device_report == best),
        top5=scores.share(np.array([answer.is_among_five for answer in answers]))
        if bundle.manifest.classes > SEVERAL
        else None,
        mean_confidence=float(confidences.mean()),
        calibration_error=scores.calibration_error(confidences, device_report == best) if excludes else None,
        published=published(bundle.manifest),
        classes=scores.class_scores(device_report, best),
        confusions=scores.confusions(device_report, best),
    )


def show(report: Report, console: Console) -> None:
    """The report in tables: the figures, and the first rows of what is long."""
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
        console.print(table(_title("confusions", report.confusions), ("class", "taken for", "images"), pairs))
    if report.unreadable:
        files = [(one.path, one.reason) for one in report.unreadable[:MAX_ROWS]]
        console.print(table(_title("unreadable files", report.unreadable), ("file", "reason"), files))


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    yield "bundle", f"{report.bundle.manifest.name}, {report.bundle.manifest.precision} on {report.device}"
    yield "images", f"{report.top1.of}, {report.images_per_second:.1f} per second"
    for name, measured in (("top-1", report.top1), ("top-5", report.top5)):
        if measured:
            said = getattr(report.published, name.replace("-", ""), None)
            beside = f"; published: {percent(said)}" if said is not None else ""
            yield name, f"{percent(measured.value)} ({percent(measured.low)} to {percent(measured.high)}){beside}"
    yield "mean confidence", percent(report.mean_confidence)
    error = report.calibration_error
    yield (
        "calibration error",
        percent(error) if error is not None else "does not apply: classes do not exclude each other",
    )
    if report.published:
        yield "published", f"for ImageNet-1k's validation images, by {report.published.source}"


def _title(name: str, rows: Sequence[Any]) -> str:
    return f"{name}, the first {MAX_ROWS} of {len(rows)}" if len(rows) > MAX_ROWS else name


def _bar(*, quiet: bool) -> Bar:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    return Bar(*columns, console=Console(stderr=True, quiet=quiet), transient=True)


class Rate(ProgressColumn):
    """Images per second."""

    def render(self, task: Task) -> Text:
        """Of the last half minute."""
        return Text(f"{task.speed:.1f} images/s" if task.speed else "")
