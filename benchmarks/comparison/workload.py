"""One workload: all servers at once, of which one is under load at a time. Every server's answers are known first."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np

from app.bundle.load import load_bundle
from app.system.cpus import available_cpus
from benchmarks.comparison.server import START_SECONDS, Launch, Server, ours, peer
from benchmarks.comparison.traffic import Traffic, Window
from benchmarks.load.client_pool import Crowd
from benchmarks.load.clients import Broken
from benchmarks.load.images import Known, noise, photo
from benchmarks.model.interleave import in_turn
from benchmarks.model.models import ROOT, made

COMPARED = ("requests_per_second", "cpu_ms")

WARM_SHARE = 0.25
"""Of a window's seconds: before it opens."""

REQUESTS = 400
"""Expected in a window of latencies, at least: then 300 are sure to come, and the 99th percentile is not one alone."""

MAX_OTHERS, TRIES = 0.05 * (os.cpu_count() or 1), 3
"""Cores that others may take in a window, a twentieth of the machine; and how often it is tried, if they take more."""


@dataclass(frozen=True)
class Workload:
    """What is asked, of which network, by how many at once."""

    network: str
    images: int
    callers: Sequence[int]
    is_photos: bool = True
    has_floor: bool = False  # whether the engine's own rate is measured beside it
    longer: float = 1.0  # windows, in units of --seconds

    def files(self, photos: Path | None) -> list[bytes]:
        """The images, encoded."""
        if not self.is_photos:
            return [noise(Random(seed)) for seed in range(self.images)]
        if photos is None:
            return [photo(500, 375, Random(seed)) for seed in range(self.images)]
        found = sorted(path for path in photos.iterdir() if path.suffix.lower() in {".jpg", ".jpeg"})
        return [path.read_bytes() for path in found[:: max(1, len(found) // self.images)][: self.images]]


@dataclass
class Contestant:
    """A server under this workload, and what it showed."""

    server: Server
    traffic: Traffic
    difference: float  # of a score, at most, from ours
    windows: dict[int, list[Window]] = field(default_factory=dict)  # by callers, of each round
    again: int = 0  # windows that were measured more than once

    async def measure(self, callers: int, seconds: float) -> None:
        """One more window: the first that others do not disturb, or the least disturbed of them all.

        Raises:
            RuntimeError: the server has ended.
        """
        tries = list[Window]()
        while len(tries) < TRIES and not any(window.others <= MAX_OTHERS for window in tries):
            tries.append(await self.traffic.window(callers, WARM_SHARE * seconds, seconds))
            self.server.check()
        self.again += len(tries) > 1
        self.windows.setdefault(callers, []).append(min(tries, key=lambda window: window.others))

    def rate(self, callers: int) -> float:
        """Requests a second, the median of the rounds."""
        return median(window.requests_per_second for window in self.windows[callers])

    async def percentiles(self, rate: float, seconds: float, random: Random) -> tuple[float, float]:
        """Milliseconds that callers wait, the median and the 99th percentile, where so many come a second."""
        seconds = max(seconds, REQUESTS / rate)
        p50, p99 = np.percentile(await self.traffic.latencies(rate, seconds, random), [50, 99]) * 1e3
        return float(p50), float(p99)


class Contest:
    """One workload: all servers at once, one of them under load at a time."""

    def __init__(self, workload: Workload, contestants: Sequence[Contestant], model: Path) -> None:
        self.workload, self.contestants, self._model = workload, contestants, model
        self.floor: list[dict[str, float]] = []  # the engine's own, of each round

    async def round(self, number: int, seconds: float) -> None:
        """Everybody's turn."""
        seconds *= self.workload.longer
        for each in in_turn(self.contestants, number):
            for callers in self.workload.callers:
                await each.measure(callers, seconds)
        if self.workload.has_floor:
            self.floor.append(engine_rate(self._model / "fp32", seconds))

    async def latencies(
        self, contestants: Sequence[Contestant], shares: Sequence[float], rounds: int, seconds: float
    ) -> list[dict[str, Any]]:
        """Of these at shares of what each can at most, when callers come as they come: medians of the rounds."""
        seconds, callers, random = seconds * self.workload.longer, self.workload.callers[-1], Random(0)
        found = defaultdict[tuple[float, str], list[tuple[float, float]]](list)
        for number, share in product(range(rounds), shares):
            for each in in_turn(contestants, number):
                percentiles = await each.percentiles(share * each.rate(callers), seconds, random)
                found[share, each.server.name].append(percentiles)
        return [
            _latency(each.server.name, share, share * each.rate(callers), found[share, each.server.name])
            for share, each in product(shares, contestants)
        ]

    def figures(self) -> dict[str, Any]:
        """For the record."""
        rows = [row for callers in self.workload.callers for row in self._rows(callers)]
        found: dict[str, Any] = {"servers": rows, "disturbance": self._disturbance()}
        if self.floor:
            found["engine"] = _rounded({name: median(each[name] for each in self.floor) for name in self.floor[0]})
            found["share"] = round(self._share(), 3)
        if (self._model / "int8").exists():
            ledger = load_bundle(self._model / "int8").manifest.ledger
            found["int8_agreement"] = ledger.top1_agreement
        return found

    def _share(self) -> float:
        """Of the engine's own rate that the service keeps: the median of the rounds."""
        windows = self.contestants[0].windows[self.workload.callers[-1]]
        pairs = zip(windows, self.floor, strict=True)
        return median(window.requests_per_second / floor["requests_per_second"] for window, floor in pairs)

    def _disturbance(self) -> dict[str, float]:
        """How often there was too much of it, and the cores that others took in the windows that count."""
        windows = [window for each in self.contestants for found in each.windows.values() for window in found]
        others = {"others": median(window.others for window in windows), "most": max(each.others for each in windows)}
        again = sum(each.again for each in self.contestants)
        return {"windows": len(windows), "measured_again": again, **_rounded(others)}

    def _rows(self, callers: int) -> Iterator[dict[str, Any]]:
        first = self.contestants[0]
        for each in self.contestants:
            pairs = zip(each.windows[callers], first.windows[callers], strict=True)
            of_ours = median(other.requests_per_second / own.requests_per_second for other, own in pairs)
            outcomes = each.traffic.outcomes
            yield {
                "server": each.server.name,
                "callers": callers,
                **_medians(each.windows[callers]),
                "of_ours": round(of_ours, 3),
                "difference": round(each.difference, 5),
                "refused": outcomes.refused,
                "wrong": outcomes.wrong,
                "lost": outcomes.lost,
            }


def _latency(server: str, share: float, rate: float, rounds: Sequence[tuple[float, float]]) -> dict[str, Any]:
    p50, p99 = (median(percentiles) for percentiles in zip(*rounds, strict=True))
    figures = {"share": share, "requests_per_second": rate, "p50_ms": p50, "p99_ms": p99, "p99_of_p50": p99 / p50}
    return {"server": server, **_rounded(figures)}


def _medians(windows: Sequence[Window]) -> dict[str, Any]:
    """With the least and most of those that are compared."""
    columns = {name: [asdict(window)[name] for window in windows] for name in asdict(windows[0])}
    spread = {f"{name}_spread": [round(bound(columns[name]), 2) for bound in (min, max)] for name in COMPARED}
    return {**_rounded({name: median(column) for name, column in columns.items()}), **spread}


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items()}


def engine_rate(folder: Path, seconds: float, *options: str) -> dict[str, float]:
    """The engines' own, measured in a process of its own: see `benchmarks/model/engine.py`."""
    return figures_of("engine", str(folder), "--seconds", str(seconds), *options)


def figures_of(name: str, *arguments: str) -> dict[str, float]:
    """What the benchmark of this name finds in a process of its own; what it complains of is on the screen.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)  # noqa: S603 (ours)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


async def comparison(
    workload: Workload, names: Sequence[str], photos: Path | None, ends: contextlib.ExitStack
) -> Contest:
    """Start everybody, and learn what each says of an image that is asked alone. A peer that cannot run is left out.

    Raises:
        RuntimeError: ours does not come up.
    """
    folder = made([workload.network])[workload.network]
    files, entries = workload.files(photos), list[tuple[Server, Crowd, Sequence[Known]]]()
    for launch in _launches(workload, folder, names):
        server = Server(launch)
        ends.callback(server.stop)
        crowd = ends.enter_context(contextlib.closing(Crowd(server.address)))
        try:
            entries.append((server, crowd, await learn(server, crowd, files)))
        except RuntimeError as error:
            if not entries:
                raise
            print(f"left out: {error}")
            server.stop()
    telling = [place for place in range(len(files)) if all(_is_telling(known, place) for _, _, known in entries)]
    own = entries[0][2]
    print(f"{len(telling)} images, {len(entries)} servers", flush=True)
    contestants = [
        Contestant(server, Traffic(server, crowd, [known[place] for place in telling]), _difference(known, own))
        for server, crowd, known in entries
    ]
    return Contest(workload, contestants, folder)


def _launches(workload: Workload, folder: Path, names: Sequence[str]) -> Iterator[Launch]:
    """Ours as one process; where the network counts, with an engine for each core, as others have a worker each.

    Elsewhere, with one HTTP worker and with one for each core, too.
    """
    cpus = available_cpus()
    engines = ("--instances-per-device", str(cpus)) if workload.has_floor else ()
    yield ours(folder / "fp32", "swin-serve", "--http-workers", "0", *engines)
    if workload.has_floor:
        yield ours(folder / "fp32", "swin-serve as it comes")
        yield ours(folder / "int8", "swin-serve int8", *engines)
    else:
        for count in sorted({1, cpus}):
            name = "swin-serve, 1 HTTP worker" if count == 1 else f"swin-serve, {count} HTTP workers"
            yield ours(folder / "fp32", name, "--http-workers", str(count))
    for name in names:
        try:
            yield peer(name, folder)
        except subprocess.CalledProcessError as error:
            print(f"left out: {name} cannot be installed: {error}")


async def learn(server: Server, crowd: Crowd, files: Iterable[bytes]) -> list[Known]:
    """What a server says of each image that is asked alone, once it answers at all.

    Raises:
        RuntimeError: it does not come up, or gives no predictions.
    """
    await _ready(server, crowd, server.protocol.request(next(iter(files))))
    known = []
    for data in files:
        body = (await crowd.ask(server.protocol.request(data))).body
        known.append(Known(data, [(row["index"], row["score"]) for row in server.predictions(body)]))
        if not known[-1].scores:
            raise RuntimeError(f"{server.name} gives no predictions: {body[:200]!r}")
    return known


async def _ready(server: Server, crowd: Crowd, sent: bytes) -> None:
    """Ask until there is an answer."""
    ends = time.perf_counter() + START_SECONDS
    while time.perf_counter() < ends:
        server.check()
        with contextlib.suppress(Broken, OSError):
            if server.predictions((await crowd.ask(sent)).body):
                return
        await asyncio.sleep(0.2)
    raise RuntimeError(f"{server.name} does not come up: {server.last_words()}")


def _is_telling(known: Sequence[Known], place: int) -> bool:
    return known[place].is_telling(known[:place])


def _difference(known: Sequence[Known], other: Sequence[Known]) -> float:
    """Of the score of a class that both give, at most."""
    pairs = ((dict(one.scores), dict(two.scores)) for one, two in zip(known, other, strict=True))
    return max(abs(one[index] - two[index]) for one, two in pairs for index in one.keys() & two.keys())
