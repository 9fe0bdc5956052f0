"""`swin-serve tune`: the options, the progress, the table and the files. Measures nothing itself."""

import argparse
import asyncio
import contextlib
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import uvloop

from app.bundle.load import load_bundle
from app.cli.arguments import Source, add_settings
from app.cli.numbers import number
from app.cli.run import default_http_workers, http_worker_count
from app.cli.terminal import aligned, cancelled_by_signals, check_files, draws_bars, fail, show, write_files
from app.errors import StartError
from app.extras import required
from app.images.reading import image_reader
from app.inference import onnx_runtime
from app.observability import logging as logs
from app.processes import shared_memory
from app.settings import Settings
from app.system.cpus import available_cpus, cpu_model
from app.system.open_files import OTHER_FILES, raise_soft_limit
from app.system.processes import PROC
from app.tuning import answer
from app.tuning.measurement import MAX_CLIENTS, WARM_UP_SECONDS
from app.tuning.objective import parse_objective
from app.tuning.record import record
from app.tuning.samples import Samples, read_samples
from app.tuning.schedule import AROUND_SECONDS, Schedule
from app.tuning.service_process import ServiceEnded
from app.tuning.settings_file import settings_file
from app.tuning.tuner import Request, Result, tune
from app.validation_messages import printable

# The settings that apply, with another help text where the general one is about something else.
SETTINGS = {
    "bundle": None,
    "device": None,
    "instances_per_device": None,
    "threads": None,
    "cuda_graphs": None,
    "http_workers": None,
    "max_batch": None,
    "max_queue_delay_ms": None,
    "max_queue_size": None,
    "max_client_batch_size": None,
    "formats": None,
    "max_megapixels": None,
    "color_profiles": None,
    "decode": None,
    "decode_threads": None,
    "max_body_mib": None,
    "log_level": "Lowest level that the measured services log. They log to a file that is deleted.",
}

# The default and the bounds of --minutes. In less time, no second process starts.
MINUTES, MIN_MINUTES, MAX_MINUTES = 6.0, 0.25, 24 * 60.0

# The limit of --rate, in requests per second.
MAX_RATE = 100_000

# The requests that have to arrive within the whole time, at least.
MIN_REQUESTS = 100

# Lines about images that cannot be read. A folder can hold thousands of other files.
MAX_LEFT_OUT = 5

DESCRIPTION = """\
Find the settings with which the service answers the most requests per second within a latency, on this machine, with
this bundle and with your images. Costs that are measured alone choose what is tried. Then each candidate runs as a
service of its own, and gets requests that arrive whether or not earlier ones are answered. The settings are kept only
if they are better than the defaults by more than the measurements differ.

Tuned are instances_per_device, threads, max_batch, http_workers, max_queue_size, and decode with --allow-fast-decode.
max_queue_size follows from the latency and is not measured. A setting that you give, as an option or as a variable,
stays as it is. All other settings stay as they are, too. The file names the given ones in a comment: they are needed
with it.

The load generator runs on the same machine, so the true rate is higher. Stop other programs meanwhile.
"""
EXAMPLES = """\
examples:
  swin-serve tune --bundle ./my-bundle --images ./photos --slo p99=50ms --output tuned.env
  swin-serve tune --bundle ./my-bundle --images ./photos --slo p95=200ms --rate 20
  docker run --env-file tuned.env …

exit codes: 0 there is an answer, also if the defaults are as good; 1 the latency cannot be held, or the work failed or
was stopped; 2 the request was wrong
"""


def add_arguments(parser: argparse.ArgumentParser) -> Source:
    """Add the options, and return the source that reads settings from parsed arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument(
        "--images",
        nargs="+",
        required=True,
        type=Path,
        metavar="SOURCE",
        help="folders and files of images as your clients send them; of more than 500 images or 256 MiB, a random part "
        "is used",
    )
    parser.add_argument(
        "--slo",
        required=True,
        metavar="PERCENTILE=LATENCY",
        help="latency within which so many percent of all requests must be answered, as p99=50ms or p95=0.2s; refused "
        "and failed requests count as late",
    )
    parser.add_argument(
        "--minutes",
        type=number("number of minutes", MAX_MINUTES, least=MIN_MINUTES),
        default=MINUTES,
        metavar="MINUTES",
        help="time for the whole run; more time makes the answer more certain (default: 6)",
    )
    parser.add_argument(
        "--rate",
        type=number("number of requests per second", MAX_RATE),
        metavar="REQUESTS",
        help="find the settings that hold so many requests per second for the least CPU time (default: find the "
        f"highest rate); at least {MIN_REQUESTS} requests have to arrive within --minutes",
    )
    parser.add_argument(
        "--allow-fast-decode",
        action="store_true",
        help="try decode=fast, too, which can change the order of classes with nearly equal scores",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the settings to a file for `docker run --env-file`, with their gains as comments (default: print "
        "them)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write a page (HTML) with latency by rate of all candidates, and what bounds them; needs matplotlib",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON with all windows, and no table")
    return add_settings(parser, SETTINGS)


def run_tuner(settings: Settings, given: argparse.Namespace) -> int:
    """Tune the settings, and print the answer. Return the exit code.

    Raises:
        StartError: the request is wrong.
        OutputLost: the answer cannot be printed. The files are written.
    """
    objective = parse_objective(given.slo)
    _check(given)
    schedule = Schedule(60 * given.minutes, around=max(AROUND_SECONDS, WARM_UP_SECONDS + objective.seconds))
    logs.configure("text", "warning")
    samples = _samples(settings, given)
    request = Request(
        settings,
        samples,
        objective,
        given.rate,
        _worker_counts(),
        http_worker_count(None),
        allow_fast_decode=given.allow_fast_decode,
    )
    try:
        with _progress(schedule) as report:
            result = _run(request, schedule, report)
    except asyncio.CancelledError:
        return fail("stopped before there was an answer; all processes have ended")
    except ServiceEnded as error:
        return fail(f"the service with the defaults ended: {error}")
    return _answer(result, given)


def _run(request: Request, schedule: Schedule, report: Callable[[str], None]) -> Result:
    """Run the tuner. SIGTERM and SIGINT cancel it."""

    async def work() -> Result:
        with cancelled_by_signals():
            return await tune(request, schedule, report)

    return uvloop.run(work())


def _check(given: argparse.Namespace) -> None:
    """Raise StartError if the run could not measure, or its output not be written."""
    if not (PROC / "stat").exists():
        raise StartError(
            f"swin-serve tune needs Linux, because it reads CPU times in /proc; this is {platform.system()}"
        )
    if given.rate is not None and given.rate * 60 * given.minutes < MIN_REQUESTS:
        raise StartError(
            f"--rate {given.rate:g}: fewer than {MIN_REQUESTS} requests arrive within {given.minutes:g} minutes, too "
            "few to measure; give more --minutes"
        )
    allowed = raise_soft_limit(MAX_CLIENTS + OTHER_FILES) - OTHER_FILES
    if allowed < MAX_CLIENTS:
        raise StartError(
            f"swin-serve tune opens up to {MAX_CLIENTS} connections; this process may open only {max(allowed, 0)}; "
            "raise ulimit -n"
        )
    check_files({"--output": given.output, "--report": given.report})
    if given.report is not None:
        with required("swin-serve tune --report", "matplotlib", extra="bench"):
            import app.load.picture  # noqa: PLC0415, F401 (an extra)


def _samples(settings: Settings, given: argparse.Namespace) -> Samples:
    """Read the images, and name those that are left out."""
    reader = image_reader(settings, load_bundle(settings.bundle).manifest.preprocessing)
    samples = read_samples(given.images, reader, settings.max_body_mib * 2**20)
    for reason in samples.left_out[:MAX_LEFT_OUT]:
        print(f"swin-serve: left out {printable(reason)}", file=sys.stderr)
    if len(samples.left_out) > MAX_LEFT_OUT:
        print(f"swin-serve: left out {len(samples.left_out) - MAX_LEFT_OUT} more files", file=sys.stderr)
    if samples.remark:
        print(f"swin-serve: {samples.remark}", file=sys.stderr)
    return samples


def _worker_counts() -> tuple[int, ...]:
    """Return the numbers of HTTP workers to try: none, one, and as many as by default or as CPUs."""
    if not shared_memory.are_available():
        return (0,)
    cpus = available_cpus()
    return tuple(sorted({0, 1, default_http_workers(cpus) or cpus}))


@contextlib.contextmanager
def _progress(schedule: Schedule) -> Iterator[Callable[[str], None]]:
    """Show what is being done and the time that is left: a bar on a terminal with rich, otherwise lines."""
    if not draws_bars():
        yield partial(_say, schedule)
        return
    from app.cli.tuning_bar import bar  # noqa: PLC0415 (needs rich)

    with bar(schedule) as report:
        yield report


def _say(schedule: Schedule, text: str) -> None:
    """Print a line of progress. If the reader has gone, the work goes on without it."""
    with contextlib.suppress(OSError):
        print(f"{schedule.clock} left: {text}", file=sys.stderr, flush=True)


def _answer(result: Result, given: argparse.Namespace) -> int:
    version = importlib.metadata.version("swin-serve")
    lines = [record(result, version)] if given.json else list(_lines(result))
    files = dict[Path, bytes]()
    if result.confirmed:
        text = settings_file(result, version)
        if given.output is not None:
            files[given.output] = text.encode()
        elif not given.json:
            lines += ["", text.removesuffix("\n")]
    faults = write_files(files)
    try:
        show("\n".join(lines))
    finally:
        if given.report is not None:
            faults += write_files({given.report: _page(result, version).encode()})
        code = fail(*faults)
    return code if result.confirmed else 1


def _page(result: Result, version: str) -> str:
    from app.tuning.report import html  # noqa: PLC0415 (needs matplotlib)

    return html(
        result,
        {
            "Machine": f"{cpu_model()}, {available_cpus()} CPUs for this process",
            "Versions": (
                f"swin-serve {version}, ONNX Runtime {onnx_runtime.load().__version__}, "
                f"Python {platform.python_version()}"
            ),
            "Date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        },
    )


def _lines(result: Result) -> Iterator[str]:
    """Yield the table, and the sentences below it."""
    yield from aligned([answer.HEAD, *answer.rows(result)], left=2)  # what bounds it, and the settings
    yield ""
    yield answer.sentence(result)
    yield from answer.remarks(result)
