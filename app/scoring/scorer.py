"""The scorer: the engines of a bundle, which turn items into rows. Knows no sources and no output.

Everything that makes it can be pickled. So a process of a cluster can open its own scorer and get
the same rows: those of a chunk depend on its items only.
"""

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Self

import pyarrow as pa

from app.bundle.load import load_bundle
from app.classification.embedding import mean_token
from app.errors import StartError, sentence
from app.images.reading import image_reader
from app.inference import onnx_runtime
from app.inference.engine import Engine
from app.inference.pool import open_engines
from app.inference.self_test import check_golden
from app.scoring.errors import ScoringFailed
from app.scoring.items import Item, pixels_of
from app.scoring.pipeline import Pixels, run_chunks
from app.scoring.rows import Columns, Output, RowWriter
from app.settings import Settings
from app.system.cpus import available_cpus

log = logging.getLogger("swin.score")


class Scorer:
    """The opened engines of a bundle, with its preprocessing and its labels.

    Args:
        settings: bundle, device, engines and the reading of images.
        columns: what a row holds.
        batch: images that an engine runs together, which is also the number of items in a chunk.
            None: the fastest size, as measured at the warm-up.

    Raises:
        StartError: the bundle or a device cannot be used.
    """

    def __init__(self, settings: Settings, columns: Columns, batch: int | None = None) -> None:
        onnx_runtime.load()
        self._bundle = load_bundle(settings.bundle)
        self.engines = open_engines(self._bundle, settings, batch=batch)
        self.batch = batch or min(map(fastest_batch, self.engines))
        for engine in self.engines:  # as if they had been opened for this size: padding can change last digits
            engine.keep({1, self.batch})
        self.threads = self.engines[0].device_report.threads
        self.devices = sorted({engine.device_report.device.kind for engine in self.engines})
        self._rows = RowWriter(self._bundle, columns)
        reader = image_reader(settings, self._bundle.manifest.preprocessing)
        self.decode = partial(pixels_of, reader=reader, max_bytes=settings.max_body_mib * 2**20)
        self._decode_threads = settings.decode_threads or available_cpus()
        run = _run_with_embeddings if columns.embedding else _run
        self._runs = [partial(_run_despite_failures, partial(run, each), self._check(each)) for each in self.engines]

    @property
    def schema(self) -> pa.Schema:
        """The schema of the rows."""
        return self._rows.schema

    def batches(self, items: Iterable[Item]) -> Generator[pa.RecordBatch, None, None]:
        """Yield the rows of each chunk, in the order of the items.

        All chunks but the last have `batch` items. Items are taken ahead of the engines.

        Raises:
            ScoringFailed: an engine fails on images that it should be able to run.
        """
        chunks = run_chunks(items, self.decode, self._runs, batch=self.batch, threads=self._decode_threads)
        try:
            for chunk in chunks:
                yield self._rows.batch(chunk)
        finally:
            chunks.close()

    def table(self, items: Sequence[Item]) -> pa.Table:
        """Return the rows of a block of items.

        The rows are those of a longer run if the block begins at a multiple of `batch` there.
        """
        return pa.Table.from_batches(self.batches(items), schema=self.schema)

    def close(self) -> None:
        """End the threads of the engines."""
        for engine in self.engines:
            engine.close()

    def _check(self, engine: Engine) -> Callable[[], None]:
        return partial(check_golden, self._bundle, engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def fastest_batch(engine: Engine) -> int:
    """Return the batch size with the shortest time for an image, as measured at the warm-up."""
    return min(engine.bucket_seconds, key=lambda size: engine.bucket_seconds[size] / size)


def _run(engine: Engine, images: Sequence[Pixels]) -> list[Output]:
    return [Output(logits, None) for logits in engine.run(images)]


def _run_with_embeddings(engine: Engine, images: Sequence[Pixels]) -> list[Output]:
    rows = zip(*engine.run_with_tokens(images), strict=True)
    return [Output(logits, mean_token(tokens)) for logits, tokens in rows]


def _run_despite_failures(
    run: Callable[[Sequence[Pixels]], list[Output]], check: Callable[[], None], images: Sequence[Pixels]
) -> Sequence[Output | str]:
    """Run a batch. If it fails, run each image alone, so that one image costs only its own row.

    Raises:
        ScoringFailed: the engine fails on golden samples, too.
    """
    try:
        return run(images)
    except Exception as error:  # noqa: BLE001 (ONNX Runtime's errors share no class of their own)
        log.warning("batch failed", extra={"images": len(images), "why": sentence(error)})
        try:
            check()
            return [_run_alone(run, image) for image in images]
        except StartError as failure:
            raise ScoringFailed(f"the engine has failed: {failure}") from error


def _run_alone(run: Callable[[Sequence[Pixels]], list[Output]], image: Pixels) -> Output | str:
    try:
        return run([image])[0]
    except Exception as error:  # noqa: BLE001 (see above)
        return f"The model failed on the image: {sentence(error)}."
