"""One workload of the comparison: all servers run, and one at a time is under load.

Before the load, each server is asked for the predictions of each image alone.
"""

import asyncio
import contextlib
import json
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
from app.load.client_pool import Broken, ClientPool
from app.load.other_work import MAX_OTHER_CORES
from app.system.cpus import available_cpus
from benchmarks.comparison.server import START_SECONDS, Launch, Server, baseline, swin_serve
from benchmarks.comparison.traffic import Traffic, Window
from benchmarks.load.images import Known, noise, photo
from benchmarks.model.interleave import interleaved
from benchmarks.model.workload_models import ROOT, model_folders

# Figures that are reported with their range over the rounds, beside the median.
SPREAD = ("requests_per_second", "cpu_ms")

# Warm-up before a window, as a share of the seconds of the window.
WARM_UP_SHARE = 0.25

# Minimum of expected requests in a window of response times. At least 300 then arrive, so that the
# 99th percentile does not rest on one request.
REQUESTS = 400

# Tries of a window in which other processes use more than `MAX_OTHER_CORES`.
TRIES = 3


@dataclass(frozen=True)
class Workload:
    """Images, model and numbers of concurrent clients."""

    model: str
    images: int
    clients: Sequence[int]
    is_photos: bool = True
    has_engine_rate: bool = False  # whether the rate of the engine alone is measured beside it
    window_factor: float = 1.0  # length of the windows, in units of --seconds

    def files(self, photos: Path | None) -> list[bytes]:
        """Return the encoded images: drawn ones, or photos of this folder."""
        if not self.is_photos:
            return [noise(Random(seed)) for seed in range(self.images)]
        if photos is None:
            return [photo(500, 375, Random(seed)) for seed in range(self.images)]
        found = sorted(path for path in photos.iterdir() if path.suffix.lower() in {".jpg", ".jpeg"})
        return [path.read_bytes() for path in found[:: max(1, len(found) // self.images)][: self.images]]


@dataclass
class Candidate:
    """A server under this workload, with its measured windows."""

    server: Server
    traffic: Traffic
    difference: float  # maximum difference of a score from that of swin-serve
    windows: dict[int, list[Window]] = field(default_factory=dict)  # number of clients → one window per round
    repeated: int = 0  # windows that were measured more than once

    async def measure(self, clients: int, seconds: float) -> None:
        """Add a window: the first undisturbed one, or else the least disturbed of all tries.

        Raises:
            RuntimeError: the server has ended.
        """
        tries = list[Window]()
        while len(tries) < TRIES and not any(window.other_cores <= MAX_OTHER_CORES for window in tries):
            tries.append(await self.traffic.window(clients, WARM_UP_SHARE * seconds, seconds))
            self.server.check()
        self.repeated += len(tries) > 1
        self.windows.setdefault(clients, []).append(min(tries, key=lambda window: window.other_cores))

    def rate(self, clients: int) -> float:
        """Return the median of the rounds, in requests per second."""
        return median(window.requests_per_second for window in self.windows[clients])

    async def percentiles(self, rate: float, seconds: float, random: Random) -> tuple[float, float]:
        """Return the median and the 99th percentile of response times, in ms, at this arrival rate."""
        seconds = max(seconds, REQUESTS / rate)
        p50, p99 = np.percentile(await self.traffic.latencies(rate, seconds, random), [50, 99]) * 1e3
        return float(p50), float(p99)


class Comparison:
    """Candidates under one workload, measured in interleaved rounds."""

    def __init__(self, workload: Workload, candidates: Sequence[Candidate], model: Path) -> None:
        self.workload, self.candidates, self._model = workload, candidates, model
        self.engine: list[dict[str, float]] = []  # figures of the engine alone, per round

    async def round(self, number: int, seconds: float) -> None:
        """Measure one window of each candidate, in an order that depends on the number of the round."""
        seconds *= self.workload.window_factor
        for each in interleaved(self.candidates, number):
            for clients in self.workload.clients:
                await each.measure(clients, seconds)
        if self.workload.has_engine_rate:
            self.engine.append(engine_rate(self._model / "fp32", seconds))

    async def latencies(
        self, candidates: Sequence[Candidate], shares: Sequence[float], rounds: int, seconds: float
    ) -> list[dict[str, Any]]:
        """Measure response times of open loops, at shares of the maximum rate of each candidate.

        The figures are medians of the rounds.
        """
        seconds, clients, random = seconds * self.workload.window_factor, self.workload.clients[-1], Random(0)
        found = defaultdict[tuple[float, str], list[tuple[float, float]]](list)
        for number, share in product(range(rounds), shares):
            for each in interleaved(candidates, number):
                percentiles = await each.percentiles(share * each.rate(clients), seconds, random)
                found[share, each.server.name].append(percentiles)
        return [
            _latency(each.server.name, share, share * each.rate(clients), found[share, each.server.name])
            for share, each in product(shares, candidates)
        ]

    def figures(self) -> dict[str, Any]:
        """Return all figures by name, as the record keeps them."""
        rows = [row for clients in self.workload.clients for row in self._rows(clients)]
        found: dict[str, Any] = {"servers": rows, "disturbance": self._disturbance()}
        if self.engine:
            found["engine"] = _rounded({name: median(each[name] for each in self.engine) for name in self.engine[0]})
            found["share"] = round(self._share(), 3)
        if (self._model / "int8").exists():
            ledger = load_bundle(self._model / "int8").manifest.ledger
            found["int8_agreement"] = ledger.top1_agreement
        return found

    def _share(self) -> float:
        """Return the median share of the engine's own rate that the service reaches."""
        windows = self.candidates[0].windows[self.workload.clients[-1]]
        pairs = zip(windows, self.engine, strict=True)
        return median(window.requests_per_second / engine["requests_per_second"] for window, engine in pairs)

    def _disturbance(self) -> dict[str, float]:
        """Return how many windows were repeated, and the cores of other processes in those that count."""
        windows = [window for each in self.candidates for found in each.windows.values() for window in found]
        other_cores = [window.other_cores for window in windows]
        disturbance = {"other_cores": median(other_cores), "max_other_cores": max(other_cores)}
        repeated = sum(each.repeated for each in self.candidates)
        return {"windows": len(windows), "repeated": repeated, **_rounded(disturbance)}

    def _rows(self, clients: int) -> Iterator[dict[str, Any]]:
        first = self.candidates[0]
        for each in self.candidates:
            pairs = zip(each.windows[clients], first.windows[clients], strict=True)
            ratio = median(other.requests_per_second / own.requests_per_second for other, own in pairs)
            outcomes = each.traffic.outcomes
            yield {
                "server": each.server.name,
                "clients": clients,
                **_medians(each.windows[clients]),
                "of_swin_serve": round(ratio, 3),
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
    """Return the median of each figure, and the range of those in `SPREAD`."""
    columns = {name: [asdict(window)[name] for window in windows] for name in asdict(windows[0])}
    spread = {f"{name}_spread": [round(bound(columns[name]), 2) for bound in (min, max)] for name in SPREAD}
    return {**_rounded({name: median(column) for name, column in columns.items()}), **spread}


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items()}


def engine_rate(folder: Path, seconds: float, *options: str) -> dict[str, float]:
    """Return the rate of the engines without a service: see `benchmarks/model/engine.py`."""
    return run_benchmark("model.engine", str(folder), "--seconds", str(seconds), *options)


def run_benchmark(module: str, *arguments: str) -> dict[str, float]:
    """Run a module of `benchmarks` in a separate process, and return the JSON that it prints.

    Its error output is shown.

    Raises:
        subprocess.CalledProcessError: the process fails.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=True)  # noqa: S603 (a module of this repository)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


async def start_comparison(
    workload: Workload, baselines: Sequence[str], photos: Path | None, ends: contextlib.ExitStack
) -> Comparison:
    """Start all servers, and learn the predictions of each. Leave out baselines that do not start.

    Raises:
        RuntimeError: swin-serve does not start.
    """
    folder = model_folders([workload.model])[workload.model]
    files, entries = workload.files(photos), list[tuple[Server, ClientPool, Sequence[Known]]]()
    for launch in _launches(workload, folder, baselines):
        server = Server(launch)
        ends.callback(server.stop)
        pool = ends.enter_context(contextlib.closing(ClientPool(server.address)))
        try:
            entries.append((server, pool, await learn(server, pool, files)))
        except RuntimeError as error:
            if not entries:
                raise
            print(f"left out: {error}")
            server.stop()
    distinct = [index for index in range(len(files)) if all(_is_distinct(known, index) for _, _, known in entries)]
    reference = entries[0][2]
    print(f"{len(distinct)} images, {len(entries)} servers", flush=True)
    candidates = [
        Candidate(server, Traffic(server, pool, [known[index] for index in distinct]), _difference(known, reference))
        for server, pool, known in entries
    ]
    return Comparison(workload, candidates, folder)


def _launches(workload: Workload, folder: Path, baselines: Sequence[str]) -> Iterator[Launch]:
    """Yield the launches of swin-serve in several configurations, then those of the baselines.

    If the engine's own rate is measured, swin-serve runs with an engine for each core, as the
    baselines have a worker for each, and with its defaults. Otherwise it runs as one process, with
    one HTTP worker, and with one for each core.
    """
    cpus = available_cpus()
    engines = ("--instances-per-device", str(cpus)) if workload.has_engine_rate else ()
    yield swin_serve(folder / "fp32", "swin-serve", "--http-workers", "0", *engines)
    if workload.has_engine_rate:
        yield swin_serve(folder / "fp32", "swin-serve, defaults")
        yield swin_serve(folder / "int8", "swin-serve int8", *engines)
    else:
        for count in sorted({1, cpus}):
            name = "swin-serve, 1 HTTP worker" if count == 1 else f"swin-serve, {count} HTTP workers"
            yield swin_serve(folder / "fp32", name, "--http-workers", str(count))
    for name in baselines:
        try:
            yield baseline(name, folder)
        except subprocess.CalledProcessError as error:
            print(f"left out: {name} cannot be installed: {error}")


async def learn(server: Server, pool: ClientPool, files: Iterable[bytes]) -> list[Known]:
    """Wait until the server is ready, then request the predictions of each image alone.

    Raises:
        RuntimeError: the server does not start, or returns no predictions.
    """
    await _wait_until_ready(server, pool, server.protocol.request(next(iter(files))))
    known = []
    for data in files:
        body = (await pool.send(server.protocol.request(data))).body
        known.append(Known(data, [(row["index"], row["score"]) for row in server.predictions(body)]))
        if not known[-1].scores:
            raise RuntimeError(f"{server.name} returns no predictions: {body[:200]!r}")
    return known


async def _wait_until_ready(server: Server, pool: ClientPool, request: bytes) -> None:
    """Repeat the request until the response holds predictions."""
    ends = time.perf_counter() + START_SECONDS
    while time.perf_counter() < ends:
        server.check()
        with contextlib.suppress(Broken, OSError):
            if server.predictions((await pool.send(request)).body):
                return
        await asyncio.sleep(0.2)
    raise RuntimeError(f"{server.name} is not ready after {START_SECONDS} s: {server.log_tail()}")


def _is_distinct(known: Sequence[Known], index: int) -> bool:
    return known[index].is_distinct(known[:index])


def _difference(known: Sequence[Known], reference: Sequence[Known]) -> float:
    """Return the maximum difference of the scores of a class that both name."""
    pairs = ((dict(one.scores), dict(two.scores)) for one, two in zip(known, reference, strict=True))
    return max(abs(one[index] - two[index]) for one, two in pairs for index in one.keys() & two.keys())
