"""Progress of offline work on standard error: a bar on a terminal, otherwise a line in the log from time to time."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

log = logging.getLogger("swin.score")

# Seconds between two lines in the log.
LOG_SECONDS = 30


class Rate(ProgressColumn):
    """A column with the images per second of the last 30 seconds."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} images/s" if task.speed else "")


class Missing(ProgressColumn):
    """A column with the number of images without a result."""

    def render(self, task: Task) -> Text:
        missing = task.fields.get("missing", 0)
        return Text(f"{missing:,} without a result" if missing else "")


class Report(Protocol):
    """Takes the number of images that are done, and of those without a result, since the beginning."""

    def __call__(self, done: int, missing: int) -> None: ...


@contextmanager
def progress(total: int, done: int, console: Console | None = None) -> Iterator[Report]:
    """Show the progress from `done` to `total` images inside the block."""
    console = console or Console(stderr=True)
    if _shows_bars(console):
        with bar(console, Missing()) as shown:
            task = shown.add_task("score", total=total, completed=done)
            yield lambda done, missing: shown.update(task, completed=done, missing=missing)
    else:
        yield _LogReport(total, done)


def bar(console: Console, *more: ProgressColumn) -> Bar:
    """Return a bar with the number of images, the rate, and the remaining time. Only a terminal shows it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    # Elsewhere, rich would print an empty line at the end.
    return Bar(*columns, *more, console=console, transient=True, disable=not _shows_bars(console))


def _shows_bars(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal  # a dumb terminal cannot move its cursor


class _LogReport:
    def __init__(self, total: int, done: int) -> None:
        self._total, self._logged, self._at = total, done, time.monotonic()

    def __call__(self, done: int, missing: int) -> None:
        seconds = time.monotonic() - self._at
        if seconds < LOG_SECONDS:
            return
        rate = (done - self._logged) / seconds
        fields = {"images": done, "of": self._total, "without_result": missing, "images_per_second": round(rate, 1)}
        log.info("scoring", extra=fields | {"remaining_seconds": round((self._total - done) / rate) if rate else None})
        self._logged, self._at = done, time.monotonic()
