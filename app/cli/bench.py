"""`swin-serve bench`: the options, and the way from images to figures. Measures by `app/load`."""

import argparse
import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from app.cli.bench_images import Image, Images, read_images
from app.cli.bench_output import Subject, json_of, report_of, text_of
from app.cli.bench_progress import progress
from app.cli.numbers import NONE, list_of, number, whole_number
from app.cli.remote_model import RemoteModel, Unreachable
from app.cli.terminal import cancelled_by_signals, check_files, fail, show, write_files
from app.errors import BadRequest, RetryableError, ServiceError, StartError
from app.extras import required
from app.load import figures
from app.load.other_work import OtherWork
from app.load.sweep import Plan, Sweep
from app.load.target import Target
from app.load.windows import Load
from app.service_address import KEY_VARIABLE
from app.system.open_files import OTHER_FILES, raise_soft_limit
from app.validation_messages import printable

if TYPE_CHECKING:
    from app.load.picture import Picture

# The most clients of an open loop. Requests beyond wait for one of them, and their latencies count from the arrival.
MAX_OPEN_CLIENTS = 1000

# The limits of the options: clients, requests per second, and seconds.
MAX_CLIENTS, MAX_RATE, MAX_SECONDS = 10_000, 100_000, 86_400

# Images that are sent alone before the load. A refused one is named then.
MAX_TRIED = 8

DESCRIPTION = f"""\
Measure a running service under load: requests per second of concurrent clients (closed loop), and latencies at
arrival rates (open loop). Latencies count from the arrival, so no stall of the service is hidden.

IMAGE is a file or a folder. Requests hold the images in turn. Before the load, the service is asked for a few of them
alone. The API key is read from the environment variable {KEY_VARIABLE}. Proxies are not used.
"""
EXAMPLES = """\
examples:
  swin-serve bench http://localhost:8000 ./photos
  swin-serve bench localhost:8000 photo.jpg --clients 1,16,64 --rates none --seconds 10
  swin-serve bench https://example.org/digits ./photos --clients none --rates 100,200,400 --report report.html

exit codes:
  0  the service is measured; refused requests are a result
  1  the service gives no answer, a response failed, a request was lost, or the work was stopped
  2  the request was wrong (option, image, address of the service, or API key)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.add_argument("url", metavar="URL", help="address of the service, with its prefix if it has one")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="file of an image, or a folder of images")
    parser.add_argument(
        "--clients",
        type=list_of(whole_number(1, MAX_CLIENTS)),
        default=(1, 8, 32),
        metavar="N,…",
        help=f"concurrent clients of each closed loop; {NONE} for no closed loop (default: 1,8,32)",
    )
    parser.add_argument(
        "--rates",
        type=list_of(number("rate", MAX_RATE)),
        metavar="RATE,…",
        help=f"arrivals per second of each open loop; {NONE} for no open loop (default: shares from 10 to 95 %% of the "
        "highest rate of the closed loops)",
    )
    parser.add_argument(
        "--seconds",
        type=number("time", MAX_SECONDS),
        default=5.0,
        metavar="SECONDS",
        help="length of each window (default: 5)",
    )
    parser.add_argument(
        "--warm-up",
        type=number("time", MAX_SECONDS, least=0),
        default=1.0,
        metavar="SECONDS",
        help="time of the same load before each window, which is not counted (default: 1)",
    )
    parser.add_argument(
        "--timeout",
        type=number("time", MAX_SECONDS),
        default=30.0,
        metavar="SECONDS",
        help="time after the end of a window after which requests without a response are lost, and time for each of "
        "the first questions (default: 30)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**63 - 1),
        default=0,
        metavar="N",
        help="seed of the random arrivals (default: 0)",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write latency by rate as a PNG; needs matplotlib")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write a page (HTML) with picture, tables and what was measured; needs matplotlib",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the tables")


def bench(given: argparse.Namespace) -> int:
    """Measure the service, and print the figures. Return the exit code.

    Raises:
        StartError: the request is wrong, or matplotlib is not installed.
        OutputLost: the figures cannot be printed. Picture and report are written.
    """
    plan = _plan(given)
    draw = _drawing(given)
    limit = _client_limit(plan)
    key = os.environ.get(KEY_VARIABLE)
    target = Target(given.url, key)
    images = read_images(given.images)
    try:
        subject = _probe(target, key, images.images, given.timeout)
    except (Unreachable, ServiceError) as error:
        return fail(str(error))
    load = [target.classify(image.content) for image in images.images]
    left_out, images = images.left_out, Images((), ())  # the requests hold their contents from here on
    sweep = Sweep(plan)
    is_stopped = _measure(sweep, target, load, limit, given.timeout)
    faults = list(figures.faults(sweep))
    if is_stopped:
        faults.append(f"stopped after {len(sweep.all)} of {plan.windows} windows")
    remarks = [*left_out, *figures.doubts(sweep)]
    faults += _write(given, subject, sweep, [*remarks, *faults], draw)
    try:
        show(json_of(subject, sweep, remarks, faults) if given.json else text_of(subject, sweep, remarks))
    finally:
        code = fail(*faults)
    return code


def _plan(given: argparse.Namespace) -> Plan:
    if not given.clients and given.rates is None:
        raise StartError(f"--clients {NONE} leaves no rate to take shares of; give --rates")
    if not given.clients and not given.rates:
        raise StartError(f"--clients {NONE} and --rates {NONE} leave nothing to measure; omit one")
    return Plan(given.clients, given.rates, given.seconds, given.warm_up, given.seed)


def _drawing(given: argparse.Namespace) -> "Callable[[Subject, Sweep], Picture] | None":
    """Return the function that draws, or None if no picture is wanted. Check the places of the files.

    Raises:
        StartError: matplotlib is not installed, or a file cannot be written.
    """
    check_files({"--picture": given.picture, "--report": given.report})
    if given.picture is None and given.report is None:
        return None
    option = "--report" if given.picture is None else "--picture"
    with required(f"swin-serve bench {option}", "matplotlib", extra="bench"):
        from app.load.picture import Point, Series, draw  # noqa: PLC0415 (an extra)

    def drawn(subject: Subject, sweep: Sweep) -> "Picture":
        points = [
            Point(
                window.requests_per_second,
                window.latency_ms[50],
                window.latency_ms[99],
                is_overloaded=window.is_behind or sum(window.counts) > window.counts.ok,
            )
            for window, _ in sweep.open or sweep.closed
        ]
        loop = "open loop (Poisson arrivals)" if sweep.open else "closed loop"
        return draw(f"Latency under load: {subject.title}", [Series(loop, points)])

    return drawn


def _client_limit(plan: Plan) -> int:
    """Return the most clients at once. Raise the limit of open files for them.

    Raises:
        StartError: the process may not open as many files as a closed loop needs.
    """
    needed = max(plan.clients, default=1)
    allowed = raise_soft_limit(max(needed, MAX_OPEN_CLIENTS) + OTHER_FILES) - OTHER_FILES
    if allowed < needed:
        raise StartError(f"--clients {needed}: this process may open only {allowed} connections; raise ulimit -n")
    return allowed


def _probe(target: Target, key: str | None, images: Sequence[Image], timeout: float) -> Subject:
    """Ask the service for a few images alone, and for what it serves.

    Raises:
        StartError: the service needs another key, refuses an image, or is no swin-serve.
        ServiceError: the service failed on an image.
        Unreachable: there is no answer.
    """
    service = RemoteModel(target.url, key, name="URL", has_proxies=False, timeout_s=timeout)
    number = min(len(images), MAX_TRIED)
    for image in (images[place * len(images) // number] for place in range(number)):
        try:
            service.classify(image.content)
        except BadRequest as error:
            raise StartError(printable(f"{image.name}: {error.detail}")) from error
        except RetryableError:  # the service is there, and overloaded
            continue
    return Subject(target.url, service.describe(), len(images), sum(len(image.content) for image in images))


def _measure(sweep: Sweep, target: Target, requests: Sequence[bytes], limit: int, timeout: float) -> bool:
    """Run the sweep. Return whether a signal stopped it."""

    async def run() -> bool:
        with cancelled_by_signals(), progress(sweep.plan.windows) as shown, closing(target.pool(limit)) as pool:
            try:
                await sweep.run(Load(pool, cycle(requests), timeout), OtherWork(target, pool), shown)
            except asyncio.CancelledError:
                return True
        return False

    return uvloop.run(run())


def _write(
    given: argparse.Namespace,
    subject: Subject,
    sweep: Sweep,
    remarks: Sequence[str],
    draw: "Callable[[Subject, Sweep], Picture] | None",
) -> list[str]:
    """Write picture and report. Return a sentence for each file that cannot be written."""
    if draw is None:
        return []
    picture, files = draw(subject, sweep), dict[Path, bytes]()
    if given.picture is not None:
        files[given.picture] = picture.png()
    if given.report is not None:
        files[given.report] = report_of(subject, sweep, remarks, picture.svg()).encode()
    return write_files(files)
