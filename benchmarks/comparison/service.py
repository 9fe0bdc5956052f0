"""Load over HTTP, with swin-serve beside other servers: `python -m benchmarks.comparison`.

Three workloads have different bottlenecks:

  digits   PNGs of 32×32, the demonstration network: HTTP, batching and other overhead
  swin-t   photos, Swin-T: the network; also its int8 bundle, and the rate of the engine without a service
  photos   photos, a narrow network: decoding and resizing

The servers are measured in interleaved rounds, so that disturbances of the machine affect all of
them; figures are medians of the rounds. Each response is compared with the predictions that the
same server returned for that image alone, and these with those of swin-serve.

The command exits with 1 if a response is lost or wrong, or if the service reaches less than 92 % of
the engine's own rate. `--simulate` measures the batcher alone, before a simulated engine that is as
fast as an H200; it exits with 1 if the batcher reaches less than 90 % of that rate.
"""

import argparse
import contextlib
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop

from app.load.picture import Point, Series, draw
from app.load.sweep import SHARES
from benchmarks.behavior import simulated
from benchmarks.comparison.server import baseline_names
from benchmarks.comparison.workload import Workload, start_comparison
from benchmarks.load.images import NEAR
from benchmarks.load.record import ROOT, record

# Maximum of rounds of response times: each takes a window for every share.
LATENCY_ROUNDS = 3

# Minimum share of the engine's own rate, on a network beside which all overhead is small.
MIN_SHARE = 0.92

NEAR_CAPACITY = 0.8
TITLE = "Response time by arrival rate (Poisson): photos, a narrow network"
PICTURE = ROOT / "docs" / "latency.svg"

WORKLOADS = {
    "digits": Workload("demo", images=100, clients=(1, 32), is_photos=False),
    "swin-t": Workload("swin-t", images=16, clients=(8,), has_engine_rate=True, window_factor=2),
    "photos": Workload("narrow", images=60, clients=(32,)),
}
DRAWN = "photos"

COLUMNS = {
    "clients": "{:8}",
    "requests_per_second": "{:12.1f}",
    "requests_per_second_spread": "{0[0]:9.1f}–{0[1]:<6.1f}",
    "of_swin_serve": "{:15.2f}",
    "cpu_ms": "{:9.2f}",
    "cores": "{:7.2f}",
    "other_cores": "{:8.2f}",
    "p50_ms": "{:9.2f}",
    "memory_mb": "{:11.0f}",
    "difference": "{:12.5f}",
    "refused": "{:9}",
    "wrong": "{:7}",
    "lost": "{:6}",
    "client_us": "{:11.0f}",
}
TITLES = (
    "server                       clients  requests/s        min–max  of swin-serve   CPU ms  cores   other   p50 ms"
    "  memory MB  difference  refused  wrong  lost  client µs"
)


async def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one workload from start to end, and return its figures."""
    with contextlib.ExitStack() as ends:
        comparison = await start_comparison(WORKLOADS[name], args.baselines, args.photos, ends)
        for number in range(args.rounds):
            await comparison.round(number, args.seconds)
        show(name, comparison.figures())
        if not args.latency:
            return comparison.figures()
        is_drawn = name == DRAWN
        candidates = comparison.candidates if is_drawn else comparison.candidates[:1]
        shares = SHARES if is_drawn else [NEAR_CAPACITY]
        latency = await comparison.latencies(candidates, shares, min(args.rounds, LATENCY_ROUNDS), args.seconds)
        show_latency(latency)
        return {**comparison.figures(), "latency": latency}  # including the wrong and lost responses of the open loops


def show(name: str, figures: Mapping[str, Any]) -> None:
    """Print the table of a workload."""
    print(f"\n{name}\n{TITLES}")
    for row in figures["servers"]:
        print(f"{row['server']:28}" + "".join(form.format(row[column]) for column, form in COLUMNS.items()))
    print("{repeated} of {windows} windows repeated; ".format(**figures["disturbance"]), end="")
    print(
        "in the windows that count, other processes used {other_cores:.2f} cores, {max_other_cores:.2f} at most".format(
            **figures["disturbance"]
        )
    )
    if "engine" in figures:
        engine = figures["engine"]
        print(
            f"the engine alone             {engine['requests_per_second']:19.1f}, in batches of {engine['batch']:.0f}",
            end="",
        )
        print(f"; the service reaches {figures['share']:.1%} of it")
    if "int8_agreement" in figures:
        print(f"int8 agrees with float32 in {figures['int8_agreement']:.1%} of images, according to its manifest")


def show_latency(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of response times."""
    print("\nserver                         share  requests/s   p50 ms   p99 ms  p99/p50")
    for row in rows:
        print("{:29}{:7.0%}{:12.1f}{:9.1f}{:9.1f}{:9.1f}".format(*row.values()))


def draw_latency(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG of the response times, a series for each server."""
    points = dict[str, list[Point]]()
    for row in rows:
        point = Point(row["requests_per_second"], row["p50_ms"], row["p99_ms"])
        points.setdefault(row["server"], []).append(point)
    return draw(TITLE, [Series(server, own) for server, own in points.items()]).svg()


def verdict(workloads: Mapping[str, Any]) -> int:
    """Return 1 if a response was lost, wrong or of another network, or if the share is below `MIN_SHARE`."""
    rows = [row for figures in workloads.values() for row in figures["servers"]]
    is_short = any(figures.get("share", 1) < MIN_SHARE for figures in workloads.values())
    return int(is_short or any(row["wrong"] or row["lost"] or row["difference"] > NEAR for row in rows))


def _simulate(args: argparse.Namespace) -> int:
    figures = simulated.sustain(args.seconds, args.rounds)
    simulated.show(figures)
    if not args.quick:
        record("simulated", {"rounds": args.rounds, "seconds": args.seconds, **figures})
    return simulated.verdict(figures)


def main() -> int:
    """Run the command. Return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.comparison",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    parser.add_argument(
        "--baselines",
        nargs="+",
        choices=[*baseline_names(), "all"],
        default=[],
        metavar="NAME",
        help=f"other servers to compare with: {', '.join(baseline_names())}, or all (default: none)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5, help="length of a window (default: %(default)s)")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="folder of JPEGs to send (default: drawn pictures)")
    parser.add_argument(
        "--latency",
        action="store_true",
        help="also measure response times of open loops; the workload photos is drawn as docs/latency.svg",
    )
    parser.add_argument("--quick", action="store_true", help="dry run: one round of half a second, without a record")
    parser.add_argument("--simulate", action="store_true", help="measure the batcher alone, before a simulated engine")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the servers on SIGTERM, as on Ctrl-C
    if "all" in args.baselines:
        args.baselines = baseline_names()
    if args.quick:
        args.rounds, args.seconds = 1, 0.5
    if args.simulate:
        return _simulate(args)
    workloads = {name: uvloop.run(measure(name, args)) for name in args.workloads}
    for name, figures in () if args.quick else workloads.items():
        record(f"service-{name}", {"rounds": args.rounds, "seconds": args.seconds, **figures})
        if args.latency and name == DRAWN:
            PICTURE.write_text(draw_latency(figures["latency"]))
    return verdict(workloads)
