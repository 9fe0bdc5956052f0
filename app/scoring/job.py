"""A run of offline scoring: sources to output, continued where it stopped. Knows no command line."""

import itertools
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import pyarrow as pa

from app.scoring.errors import SourceError, SourcesChanged
from app.scoring.items import Item
from app.scoring.output import GROUP_BYTES, Output, Run, check_same
from app.scoring.progress import progress
from app.scoring.provenance import bundle_digest, library_versions, settings_of_rows
from app.scoring.rows import Columns, count_missing
from app.scoring.scorer import Scorer
from app.scoring.sources import Sources, Survey
from app.settings import Settings

# Seconds of work that a process loses when it is killed, about: a part is written so often.
PART_SECONDS = 10


class AnyScorer(Protocol):
    """Interface of `Scorer` and `ClusterScorer`. `Scorer` documents the members."""

    batch: int

    @property
    def devices(self) -> Sequence[str]: ...

    @property
    def schema(self) -> pa.Schema: ...

    def batches(self, items: Iterable[Item]) -> Generator[pa.RecordBatch, None, None]: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


# Opens engines for a batch size, or for the fastest one.
OpenScorer = Callable[[Settings, Columns, int | None], AnyScorer]


@dataclass(frozen=True)
class Request:
    """The images to score, the columns and the output."""

    sources: Sequence[str]
    output: Path
    columns: Columns
    column: str | None = None  # of tables; None: the only one that can hold images
    batch: int | None = None  # images that an engine runs together; None: the fastest number
    overwrite: bool = False


@dataclass(frozen=True)
class Result:
    """The end of a run, complete or stopped."""

    total: int
    done: int  # rows in the output, with those of earlier starts
    missing: int  # of them, rows without a result
    scored: int  # rows of this start
    seconds: float  # in which they were scored, without the start of the engines

    @property
    def is_complete(self) -> bool:
        """True if all rows are in the file."""
        return self.done == self.total


def score(request: Request, settings: Settings, open_scorer: OpenScorer = Scorer) -> Result:
    """Write a row for each image of the sources, after those that an earlier start has written.

    `open_scorer` opens the engines, by default those of this process. At SIGINT and SIGTERM, the rows
    so far are written and the result is not complete.

    Raises:
        StartError: the sources, the bundle or the device cannot be used, or the output belongs to
            another run.
        ScoringFailed: an engine or the disk fails. Calling again goes on from the last part.
        SourcesChanged: files have arrived, changed or gone since the start.
    """
    output = Output(request.output)
    with output.locked():
        sources = Sources(request.sources, request.column, left_out=(output.path, output.parts))
        survey = sources.survey()
        options = _options(request, settings, survey)
        begun = None if request.overwrite else output.begun(options)
        if begun is None:
            with open_scorer(settings, request.columns, request.batch) as scorer:
                output.begin(Run(options, _engine(scorer)))
                return write_rows(output, sources, scorer, survey)
        if request.batch is not None:
            check_same(output.path, {"batch": begun.engine["batch"]}, {"batch": request.batch})
        rows = output.finished_rows()
        if rows is not None:
            return Result(rows, *output.written(), scored=0, seconds=0)
        # The rows must not depend on the batch size that this start would measure.
        with open_scorer(settings, request.columns, begun.engine["batch"]) as scorer:
            check_same(output.path, {"device": begun.engine["device"]}, {"device": _engine(scorer)["device"]})
            return write_rows(output, sources, scorer, survey)


def _options(request: Request, settings: Settings, survey: Survey) -> Mapping[str, Any]:
    """Return what determines the rows and is known before the engines are open, as JSON has it."""
    return {
        "source": f"{survey.images} images ({survey.digest[:16]})",
        "bundle": bundle_digest(settings),
        **asdict(request.columns),
        **settings_of_rows(settings),
        **library_versions(),
    }


def _engine(scorer: AnyScorer) -> Mapping[str, Any]:
    return {"device": "+".join(scorer.devices), "batch": scorer.batch}


def write_rows(output: Output, sources: Sources, scorer: AnyScorer, survey: Survey) -> Result:
    """Write the rows that no part has, and finish the output if all are there.

    Raises:
        ScoringFailed: an engine or the disk fails.
        SourcesChanged: the sources are not those of the survey.
    """
    total = survey.images
    done, missing = output.written()
    before, started = done, time.monotonic()
    parts = _Parts(output, done)
    items = itertools.islice(sources.items_after(done), total - done)
    with progress(total, done) as report, _stop_signals() as stopping, parts, closing(scorer.batches(items)) as batches:
        for batch in batches:
            parts.add(batch)
            done, missing = done + len(batch), missing + count_missing(batch)
            report(done, missing)
            if stopping.is_set():
                break
    seconds = time.monotonic() - started
    if done == total or not stopping.is_set():
        _check_unchanged(sources, survey, done)
        output.finish(scorer.schema)
    return Result(total, done, missing, scored=done - before, seconds=seconds)


def _check_unchanged(sources: Sources, survey: Survey, done: int) -> None:
    """Compare the sources after the last row with those of the start: folders are listed twice, and can change between.

    Raises:
        SourcesChanged: they differ.
    """
    try:
        is_same = done == survey.images and sources.survey() == survey
    except SourceError as error:
        raise SourcesChanged(f"the sources have changed since the start: {error}") from error
    if not is_same:
        raise SourcesChanged(
            f"the sources have changed since the start, when they had {survey.images:,} images; give --overwrite to "
            "begin again, and a list of paths if files arrive all the time"
        )


class _Parts:
    """Collects rows, and writes a part every `PART_SECONDS`, at `GROUP_BYTES`, and at the end, also after an error."""

    def __init__(self, output: Output, first: int) -> None:
        self._output, self._first = output, first
        self._batches, self._bytes, self._at = list[pa.RecordBatch](), 0, time.monotonic()

    def add(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= GROUP_BYTES or time.monotonic() - self._at >= PART_SECONDS:
            self._write()

    def _write(self) -> None:
        self._output.write(self._first, self._batches)
        self._first, self._bytes, self._at = self._first + sum(map(len, self._batches)), 0, time.monotonic()
        self._batches.clear()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._batches:
            self._write()


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets. A second signal acts as it did before."""
    stopping, before = threading.Event(), dict[int, Any]()

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    def stop(*_: object) -> None:
        stopping.set()
        restore()

    if threading.current_thread() is threading.main_thread():
        before.update({number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)})
    try:
        yield stopping
    finally:
        restore()
