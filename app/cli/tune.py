"""`swin-serve tune`: the options, the progress, the table and the files. Measures nothing itself."""

import argparse
import asyncio
import contextlib
import importlib.metadata
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from app.bundle.load import load_bundle
from app.cli.arguments import Source, add_settings
from app.cli.run import default_http_workers, http_worker_count
from app.errors import StartError
from app.extras import is_installed, required
from app.images.reading import image_reader
from app.inference import onnx_runtime
from app.observability import logging as logs
from app.processes import shared_memory
from app.settings import Settings
from app.system.cpus import available_cpus, cpu_model
from app.system.processes import PROC
from app.tuning import answer
from app.tuning.objective import parse_objective
from app.tuning.samples import Samples, read_samples
from app.tuning.schedule import Schedule
from app.tuning.service_process import ServiceEnded
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

# Terminals that draw no bar, as rich names them.
DUMB_TERMINALS = frozenset({"dumb", "unknown"})

# Lines about images that cannot be read. A folder can hold thousands of other files.
MAX_LEFT_OUT = 5

DESCRIPTION = """\
Find the settings with which the service answers the most requests per second within a latency, on this machine, with
this bundle and with your images. Nothing is estimated: each candidate runs as a service of its own, and gets requests
that arrive whether or not earlier ones are answered. The settings are kept only if they are better than the defaults
by more than the measurements differ.

Tuned are instances_per_device, threads, max_batch, http_workers, max_queue_size, and decode with --allow-fast-decode.
A setting that you give, as an option or as a variable, stays as it is. All other settings stay as they are, too.

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
        help="folders and files of images as your clients send them; of more than 500 images, 500 are used",
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
        type=_minutes,
        default=MINUTES,
        metavar="MINUTES",
        help="time for the whole run; more time makes the answer more certain (default: 6)",
    )
    parser.add_argument(
        "--rate",
        type=_rate,
        metavar="REQUESTS",
        help="find the settings that hold so many requests per second for the least CPU time (default: find the "
        "highest rate)",
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
    """
    objective = parse_objective(given.slo)
    _check(given)
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
    schedule = Schedule(60 * given.minutes)
    try:
        with _progress(schedule) as report:
            result = _run(request, schedule, report)
    except asyncio.CancelledError:
        return _fail("stopped before there was an answer; all processes have ended")
    except ServiceEnded as error:
        return _fail(f"a service ended under load: {printable(str(error))}")
    return _answer(result, given)


def _run(request: Request, schedule: Schedule, report: Callable[[str], None]) -> Result:
    """Run the tuner. SIGTERM and SIGINT cancel it."""

    async def work() -> Result:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (inside a task)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await tune(request, schedule, report)

    on_sigterm, on_sigint = (signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work())
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
        signal.signal(signal.SIGINT, on_sigint)


def _check(given: argparse.Namespace) -> None:
    """Raise StartError if the run could not measure, or its output not be written."""
    if not (PROC / "stat").exists():
        raise StartError(
            f"swin-serve tune needs Linux, because it reads CPU times in /proc; this is {platform.system()}"
        )
    for option, path in (("--output", given.output), ("--report", given.report)):
        if path is not None and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
            raise StartError(f"{option} {path}: cannot write this file; choose a file in an existing folder")
    if given.output is not None and given.output == given.report:
        raise StartError(f"--output and --report are the same file, {given.output}; choose two")
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
    is_dumb = os.environ.get("TERM", "").lower() in DUMB_TERMINALS
    if not sys.stderr.isatty() or is_dumb or not is_installed("rich"):
        yield lambda text: print(f"{schedule.clock} left: {text}", file=sys.stderr, flush=True)
        return
    from app.cli.tuning_bar import bar  # noqa: PLC0415 (needs rich)

    with bar(schedule) as report:
        yield report


def _answer(result: Result, given: argparse.Namespace) -> int:
    version = importlib.metadata.version("swin-serve")
    code = 0 if result.confirmed else 1
    if given.json:
        print(answer.record(result, version))
    else:
        _print_table(result)
        print(f"\n{answer.sentence(result)}")
        for remark in answer.remarks(result):
            print(remark)
    files = {given.report: _page(result, version)} if given.report is not None else {}
    if not code:
        text = answer.settings_file(result, version)
        if given.output is not None:
            files[given.output] = text
        elif not given.json:
            print(f"\n{text}", end="")
    for path, content in files.items():
        try:
            path.write_text(content, encoding="utf-8")
        except OSError as error:
            code = _fail(f"cannot write {path}: {error.strerror}")
    return code


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


def _print_table(result: Result) -> None:
    rows = [answer.HEAD, *answer.rows(result)]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(answer.HEAD))]
    for cells in rows:
        *numbers, bound, settings = zip(cells, widths, strict=True)
        print("  ".join([*(cell.rjust(width) for cell, width in numbers), bound[0].ljust(bound[1]), settings[0]]))


def _fail(reason: str) -> int:
    print(f"swin-serve: {reason}", file=sys.stderr)
    return 1


def _minutes(text: str) -> float:
    minutes = _number(text)
    if not MIN_MINUTES <= minutes <= MAX_MINUTES:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes from {MIN_MINUTES:g} to {MAX_MINUTES:g}")
    return minutes


def _rate(text: str) -> float:
    rate = _number(text)
    if not 0 < rate <= 1e6:  # noqa: PLR2004 (no generator sends more)
        raise argparse.ArgumentTypeError(f"{text!r} is no number of requests per second above 0 and up to 1000000")
    return rate


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
