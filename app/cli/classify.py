"""`swin-serve classify`: the options, and the way from images to answers. Knows neither HTTP nor engines."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.classification.classifier import Classification, Overlay
from app.cli import score
from app.cli.answers import Answer, shown_on
from app.cli.arguments import Source, add_settings
from app.cli.remote_model import RemoteModel, Unreachable
from app.cli.terminal import draws_bars, fail
from app.errors import ServiceError, StartError
from app.local_model import LocalModel
from app.observability import logging as logs
from app.scoring.items import Item, content_of
from app.service_address import KEY_VARIABLE
from app.settings import Settings

# The image that is read from standard input, and its name in the names of files.
STDIN, STDIN_NAME = "-", "stdin"

# Images at once. They share batches, here as in a service.
CONCURRENCY = 8

# From this number of images on, a terminal shows a bar.
MIN_IMAGES_FOR_BAR = 16

# The settings that apply: those of `score`, without those of its log.
SETTINGS = {name: text for name, text in score.SETTINGS.items() if not name.startswith("log_")} | {
    "top_k": "Number of classes of each image. With --url, the default is that of the service.",
    "decode_threads": None,
}

DESCRIPTION = f"""\
Classify a few images, with a bundle in this process or by a running service, and print their best classes.

On a terminal, the answers are a table. Elsewhere, each class is a line: image, index, label and score, separated by
tabs. With --json, each image is a line, also one that cannot be classified.

With --url, the API key is read from the environment variable {KEY_VARIABLE}. `swin-serve score` is for many images.
"""
EXAMPLES = """\
examples:
  swin-serve classify photo.jpg --bundle ./my-bundle
  swin-serve classify *.jpg --bundle ./my-bundle --top-k 3 --evidence ./evidence
  swin-serve classify *.jpg --url http://localhost:8000 --json
  curl --silent https://example.org/photo.jpg | swin-serve classify -

exit codes: 0 all images are classified, 1 an image has no answer or the work failed, 2 the request was wrong
"""


class Model(Protocol):
    """A model in this process, or in a service."""

    def classify(self, image: bytes, top_k: int | None = None) -> Classification: ...

    def draw_evidence(self, image: bytes) -> Overlay: ...


@dataclass(frozen=True)
class Request:
    """The parameters that hold for all images."""

    top_k: int | None  # None: as many classes as the model returns
    evidence: Path | None  # the folder for pictures, or None
    max_bytes: int | None  # of an encoded image; None for no maximum


def add_arguments(parser: argparse.ArgumentParser) -> Source:
    """Add the options, and return the source that reads settings from parsed arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=f"file of an image, or {STDIN} for standard input")
    parser.add_argument(
        "--url", metavar="URL", help="ask the service at this address (default: open a bundle in this process)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each image")
    parser.add_argument(
        "--evidence",
        type=Path,
        metavar="DIR",
        help="write a picture of the evidence for the best class of each image, as DIR/NAME.evidence.png",
    )
    return add_settings(parser, SETTINGS)


def classify(settings: Settings, given: argparse.Namespace) -> int:
    """Classify the images, and print the answers. Return the exit code.

    Raises:
        StartError: the request is wrong.
        OutputLost: an answer cannot be printed.
    """
    _check(given)
    logs.configure(settings.log_format, settings.log_level if "log_level" in settings.model_fields_set else "warning")
    try:
        return _classify_all(_opened(settings, given), _request_of(settings, given), given.images, as_json=given.json)
    except Unreachable as error:
        return fail(str(error))


def _check(given: argparse.Namespace) -> None:
    """Raise StartError if the arguments contradict each other, or the folder for pictures cannot be made."""
    if given.images.count(STDIN) > 1:
        raise StartError(f"{STDIN} is given {given.images.count(STDIN)} times, and standard input holds one image")
    local = [name for name in SETTINGS if name in vars(given) and name != "top_k"]
    if given.url is not None and local:
        raise StartError(f"--{local[0].replace('_', '-')} has no effect with --url: the service has its own; omit one")
    if given.evidence is None:
        return
    ((file, count),) = Counter(_picture(name, given.evidence) for name in given.images).most_common(1)
    if count > 1:
        raise StartError(f"{count} images would be written to {file}; classify them one after another")
    try:
        given.evidence.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"cannot make the folder {given.evidence}: {error.strerror}; choose another one") from error


def _request_of(settings: Settings, given: argparse.Namespace) -> Request:
    if given.url is None:
        return Request(settings.top_k, given.evidence, settings.max_body_mib * 2**20)
    return Request(settings.top_k if "top_k" in settings.model_fields_set else None, given.evidence, None)


def _opened(settings: Settings, given: argparse.Namespace) -> AbstractContextManager[Model]:
    if given.url is not None:
        return RemoteModel(given.url, os.environ.get(KEY_VARIABLE))
    # Larger batches than there are images would only make the warm-up longer.
    return LocalModel(settings.model_copy(update={"max_batch": min(settings.max_batch, _at_once(given.images))}))


def _at_once(images: Sequence[str]) -> int:
    return min(CONCURRENCY, len(images))


def _classify_all(
    opened: AbstractContextManager[Model], request: Request, images: Sequence[str], *, as_json: bool
) -> int:
    failed = 0
    with (
        opened as model,
        # The bar redirects standard output, so it begins after `shown_on` has got it.
        shown_on(sys.stdout, as_json=as_json) as show,
        _bar(len(images)) as advance,
    ):
        pool = ThreadPoolExecutor(_at_once(images), thread_name_prefix="classify")
        try:
            for answer in pool.map(lambda image: _answer(model, request, image), images):
                if answer.error is not None:
                    failed += 1
                    fail(f"{answer.image}: {answer.error}")
                show(answer)
                advance()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # a thread can wait for a service that does not answer
    return 1 if failed else 0


def _answer(model: Model, request: Request, image: str) -> Answer:
    try:
        content = content_of(_item(image, request.max_bytes), request.max_bytes)
        predictions = model.classify(content, request.top_k).predictions
        if request.evidence is None:
            return Answer(image, predictions)
        picture = _picture(image, request.evidence)
        png = model.draw_evidence(content).png
    except ServiceError as error:
        return Answer(image, error=error.detail)
    try:
        picture.write_bytes(png)
    except OSError as error:
        return Answer(image, error=f"cannot write {picture}: {error.strerror}")
    return Answer(image, predictions, picture)


def _item(image: str, max_bytes: int | None) -> Item:
    if image != STDIN:
        return Item(image, Path(image))
    return Item(STDIN_NAME, content=sys.stdin.buffer.read(-1 if max_bytes is None else max_bytes + 1))


def _picture(image: str, folder: Path) -> Path:
    return folder / f"{STDIN_NAME if image == STDIN else Path(image).stem}.evidence.png"


@contextmanager
def _bar(total: int) -> Iterator[Callable[[], None]]:
    """Show the progress on a terminal, if rich is installed."""
    if total < MIN_IMAGES_FOR_BAR or not draws_bars():
        yield lambda: None
        return
    from rich.console import Console  # noqa: PLC0415 (an extra)

    from app.scoring.progress import bar  # noqa: PLC0415 (needs rich)

    with bar(Console(stderr=True)) as shown:
        task = shown.add_task("classify", total=total)
        yield lambda: shown.advance(task)
