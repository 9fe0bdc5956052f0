"""`swin-serve score`: the options of offline scoring, and its messages. Loads its libraries when it runs."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from app import extras
from app.cli.arguments import Source, add_settings
from app.cli.numbers import whole_number
from app.cli.terminal import fail, show
from app.observability import logging as logs
from app.scoring.errors import ScoringFailed, SourcesChanged
from app.settings import Settings

if TYPE_CHECKING:
    from app.scoring import job

# The settings that apply, with another help text where the general one is about requests.
SETTINGS = {
    "bundle": None,
    "device": None,
    "instances_per_device": None,
    "cuda_graphs": None,
    "threads": None,
    "top_k": "Number of classes in the column `top_k`.",
    "formats": None,
    "max_megapixels": None,
    "color_profiles": None,
    "decode": None,
    "decode_threads": "Threads that decode and resize images. Unset: the available CPUs.",
    "max_body_mib": "Maximum size in MiB of an encoded image.",
    "log_format": None,
    "log_level": "Lowest level to log.",
}

# The largest batch, as for the setting `max_batch`.
MAX_BATCH = 1024

DESCRIPTION = """\
Classify many images without a service, and write a row for each of them. A row has the columns source,
label, index, score, top_k and error. An image that cannot be classified has a row with the reason.

SOURCE is an image, a folder, a glob, a .txt file with a path in each line, or a .csv or .parquet file with a column of
paths, or of images (Parquet only). While the run goes on, rows are in parts beside the output. If it is stopped, the
same command goes on from there.
"""
EXAMPLES = """\
examples:
  swin-serve score ./photos --output photos.parquet --bundle ./my-bundle
  swin-serve score 'photos/**/*.jpg' list.txt --output photos.parquet --top-k 3 --logits
  swin-serve score data/*.parquet --column image --output scores.parquet --embedding
  swin-serve score /shared/photos --output photos.parquet --bundle /shared/my-bundle --ray auto

exit codes: 0 all rows are written, 1 the work failed or was stopped, or no image can be read, 2 the request was wrong
"""


def add_arguments(parser: argparse.ArgumentParser) -> Source:
    """Add the options, and return the source that reads settings from parsed arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="image, folder, glob, list or table")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="Parquet file to write")
    parser.add_argument(
        "--column",
        metavar="NAME",
        help="column of the tables (default: the only one with images, or with a name as path or file)",
    )
    parser.add_argument("--logits", action="store_true", help="add the column logits: one number for each class")
    parser.add_argument(
        "--embedding",
        action="store_true",
        help="add the column embedding: the vector to which the last layer of the network is applied",
    )
    parser.add_argument(
        "--batch",
        type=whole_number(1, MAX_BATCH),
        metavar="N",
        help="run N images at a time (default: measured at the start, for the most images per second)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="compute on the Ray cluster at this address (auto: the one of this machine, local: processes of this "
        "machine); the rows are the same",
    )
    parser.add_argument("--overwrite", action="store_true", help="begin again, whatever the output holds")
    return add_settings(parser, SETTINGS)


def score(settings: Settings, given: argparse.Namespace) -> int:
    """Score the sources. Return the exit code.

    Raises:
        StartError: the request is wrong, or the extra is not installed.
        OutputLost: the result cannot be printed. All rows are written.
    """
    with extras.required("swin-serve score", "pyarrow", "rich", extra="offline"):
        from app.scoring import job, rows  # noqa: PLC0415 (the service does not need these libraries)
    logs.configure(settings.log_format, settings.log_level)
    columns = rows.Columns(settings.top_k, logits=given.logits, embedding=given.embedding)
    request = job.Request(given.sources, given.output, columns, given.column, given.batch, overwrite=given.overwrite)
    command = "the same command without --overwrite" if given.overwrite else "the same command"
    try:
        return _report(job.score(request, settings, _open_scorer(given.ray)), given.output, command)
    except SourcesChanged as error:
        return fail(str(error))
    except ScoringFailed as error:
        return fail(f"{error}; {command} goes on from the rows that are written")


def _open_scorer(address: str | None) -> "job.OpenScorer":
    """Return the way to open the engines: in this process, or on the cluster at an address.

    Raises:
        StartError: Ray is not installed.
    """
    if address is None:
        from app.scoring.scorer import Scorer  # noqa: PLC0415 (needs the extra)

        return Scorer
    with extras.required("swin-serve score --ray", "ray", extra="ray"):
        from app.scoring.cluster import ClusterScorer  # noqa: PLC0415 (Ray takes seconds to import)
    return partial(ClusterScorer, address)


def _report(result: "job.Result", output: Path, command: str) -> int:
    if not result.is_complete:
        return fail(f"stopped after {result.done:,} of {result.total:,} images; {command} goes on from there")
    speed = f", {result.scored / result.seconds:,.1f} images/s" if result.seconds else ", all from an earlier start"
    faults = [f"none of the {result.total:,} images has a result"] if result.missing == result.total else []
    try:
        show(f"{output}: {result.total:,} rows, {result.missing:,} of them without a result{speed}")
    finally:
        code = fail(*faults)
    return code
