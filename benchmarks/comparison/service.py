"""Load over HTTP, beside other servers that do the same job: `python -m benchmarks.comparison --peers all`.

Three workloads, each bound by something else:

  digits   PNGs of 32×32, the demonstration's network: HTTP, batching and everything else that is not work
  swin-t   photos, Swin-T: the network; with its int8 bundle, and the engine's own rate without a service
  photos   photos, a network as narrow as can be: decoding and resizing

Servers take turns, round by round, so that what else the machine does meets all of them; medians of the rounds. Every
answer is checked against what the same server said of that image alone, and that against ours. Exits with 1 if an
answer was lost or wrong, or if the service keeps less than 92 % of the engine's own rate.

`--simulate` is another measurement: of the batcher alone, before an engine as fast as an H200, which must keep 90 %.
"""

import argparse
import contextlib
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.behavior import simulated
from benchmarks.comparison.picture import draw
from benchmarks.comparison.server import peers
from benchmarks.comparison.workload import Workload, comparison
from benchmarks.load.images import NEAR
from benchmarks.load.record import ROOT, record

LATENCY_ROUNDS = 3
"""Of those asked for, at most: latencies take a window for each share."""

SHARE_TO_KEEP = 0.92
"""Of the engine's own rate, with a network for which everything else is small."""

SHARES = (0.1, 0.3, 0.5, 0.65, 0.8, 0.9, 0.95)
"""Of the capacity of each: where its latency is drawn."""

NEAR_CAPACITY = 0.8
TITLE = "What callers wait who come as they come: photos, a network as narrow as can be"
PICTURE = ROOT / "docs" / "latency.svg"

WORKLOADS = {
    "digits": Workload("demo", images=100, callers=(1, 32), is_photos=False),
    "swin-t": Workload("swin-t", images=16, callers=(8,), has_floor=True, longer=2),
    "photos": Workload("narrow", images=60, callers=(32,)),
}
DRAWN = "photos"

COLUMNS = {
    "callers": "{:8}",
    "requests_per_second": "{:12.1f}",
    "requests_per_second_spread": "{0[0]:9.1f}–{0[1]:<6.1f}",
    "of_ours": "{:9.2f}",
    "cpu_ms": "{:9.2f}",
    "cores": "{:7.2f}",
    "others": "{:8.2f}",
    "p50_ms": "{:9.2f}",
    "memory_mb": "{:11.0f}",
    "difference": "{:12.5f}",
    "refused": "{:9}",
    "wrong": "{:7}",
    "lost": "{:6}",
    "caller_us": "{:11.0f}",
}
TITLES = (
    "server                   callers  requests/s      least–most  of ours   CPU ms  cores  others   p50 ms  memory MB"
    "  difference  refused  wrong  lost  caller µs"
)


async def measure(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One workload from start to end; its figures."""
    with contextlib.ExitStack() as ends:
        found = await comparison(WORKLOADS[name], asked.peers, asked.photos, ends)
        for number in range(asked.rounds):
            await found.round(number, asked.seconds)
        show(name, found.figures())
        if not asked.latency:
            return found.figures()
        who, shares = (found.contestants, SHARES) if name == DRAWN else (found.contestants[:1], (NEAR_CAPACITY,))
        latency = await found.latencies(who, shares, min(asked.rounds, LATENCY_ROUNDS), asked.seconds)
        show_latency(latency)
        return {**found.figures(), "latency": latency}  # with what was wrong or lost meanwhile


def show(name: str, figures: Mapping[str, Any]) -> None:
    """For people."""
    print(f"\n{name}\n{TITLES}")
    for row in figures["servers"]:
        print(f"{row['server']:24}" + "".join(form.format(row[column]) for column, form in COLUMNS.items()))
    print("{measured_again} of {windows} windows measured again; ".format(**figures["disturbance"]), end="")
    print("of those that count, others took {others:.2f} cores, {most:.2f} at most".format(**figures["disturbance"]))
    if "engine" in figures:
        engine = figures["engine"]
        print(
            f"the engine alone         {engine['requests_per_second']:19.1f}, in batches of {engine['batch']:.0f}",
            end="",
        )
        print(f", of which the service keeps {figures['share']:.1%}")
    if "int8_agreement" in figures:
        print(f"int8 agrees with float32 in {figures['int8_agreement']:.1%}, says its manifest")


def show_latency(rows: Sequence[Mapping[str, Any]]) -> None:
    """For people."""
    print("\nserver             share  requests/s   p50 ms   p99 ms  p99/p50")
    for row in rows:
        print("{:17}{:7.0%}{:12.1f}{:9.1f}{:9.1f}{:9.1f}".format(*row.values()))


def verdict(workloads: Mapping[str, Any]) -> int:
    """1 if an answer was lost, wrong or another network's, or the service keeps too little of the engine's rate."""
    rows = [row for figures in workloads.values() for row in figures["servers"]]
    is_short = any(figures.get("share", 1) < SHARE_TO_KEEP for figures in workloads.values())
    return int(is_short or any(row["wrong"] or row["lost"] or row["difference"] > NEAR for row in rows))


def _simulate(asked: argparse.Namespace) -> int:
    figures = simulated.sustain(asked.seconds, asked.rounds)
    simulated.show(figures)
    if not asked.quick:
        record("simulated", {"rounds": asked.rounds, "seconds": asked.seconds, **figures})
    return simulated.verdict(figures)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.comparison",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--peers", nargs="+", choices=[*peers(), "all"], default=[], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of a window")
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; else pictures are drawn")
    parser.add_argument(
        "--latency", action="store_true", help="against load, too; with the photos' workload as a picture"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a dry run: one round of half seconds, nothing is recorded"
    )
    parser.add_argument("--simulate", action="store_true", help="the batcher alone, before an engine that only waits")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the servers, as Ctrl-C does
    if "all" in asked.peers:
        asked.peers = peers()
    if asked.quick:
        asked.rounds, asked.seconds = 1, 0.5
    if asked.simulate:
        return _simulate(asked)
    workloads = {name: uvloop.run(measure(name, asked)) for name in asked.workloads}
    for name, figures in () if asked.quick else workloads.items():
        record(f"service-{name}", {"rounds": asked.rounds, "seconds": asked.seconds, **figures})
        if asked.latency and name == DRAWN:
            PICTURE.write_text(draw(TITLE, figures["latency"]))
    return verdict(workloads)
