"""The parts of `benchmarks/gpu/command.py`: each measures one thing of one fp16 bundle, row by row."""

import argparse
import contextlib
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import uvloop
from numpy.typing import NDArray

from app.bundle.load import Bundle, load_bundle
from app.inference.self_test import golden_pixels, open_unproved
from app.system.cpus import available_cpus
from app.system.device import CPU, Device
from benchmarks.comparison.server import Launch, Server, ours
from benchmarks.comparison.traffic import Traffic
from benchmarks.comparison.workload import Contestant as Caller
from benchmarks.comparison.workload import Workload, engine_rate, figures_of, learn
from benchmarks.gpu.goals import COMPILED, Row
from benchmarks.load import processes
from benchmarks.load.client_pool import Crowd
from benchmarks.model.compiled import LIBRARIES, of_torch
from benchmarks.model.costs import of_bundle, of_graph
from benchmarks.model.interleave import Contestant, Cost, Run, Standing, in_turn, results, rounds
from benchmarks.model.networks import Shape, exports
from model_export.verification.images import generated, pixels_of
from model_export.verification.precision_report import logits

OURS = "engine"
COMPILERS = ("max-autotune", "reduce-overhead", "default")

MIB = 2**20
SAMPLES = 50
"""Of the memory, while a sequence runs; those of its first tenth are its warm-up."""


class Effort(NamedTuple):
    """How much of everything."""

    device: Device
    batches: Sequence[int]  # of the engine
    peer_batches: Sequence[int]  # compiling takes a minute or two for each
    rounds: int
    runs: int  # of a batch size, in a round
    images: int  # drawn, to agree on
    sequence: int  # batches
    seconds: float  # of a window, and of all that the memory is watched for 30 times as much
    compile_seconds: float  # for one batch size
    compilers: Sequence[str]  # modes of torch.compile, of which the first that works takes part
    photos: int
    callers: int


FULL = Effort(
    Device("cuda"), [1 << power for power in range(8)], (1, 64), 5, 20, 1000, 10_000, 5.0, 200.0, COMPILERS, 60, 256
)
DRY = Effort(CPU, (1, 2), (2,), 2, 2, 16, 50, 0.5, 90.0, COMPILERS[-1:], 8, 4)


def engine(bundle: Path, effort: Effort, _: argparse.Namespace) -> Iterator[Row]:
    """One batch after the other, batch sizes in turns; and two engines at once, in the batches that give most."""
    contestant = Contestant(partial(of_bundle, bundle, available_cpus(), effort.batches, effort.device))
    costs: dict[int, list[Cost]] = {size: [] for size in effort.batches}
    for number in range(effort.rounds):
        for size in in_turn(effort.batches, number):
            costs[size].append(contestant.cost(size, effort.runs * size))
    contestant.close()
    for size, found in costs.items():
        yield _speed(1, size, 1e3 / median(cost.wall for cost in found))
    two = _rate(bundle, effort)
    yield _speed(2, int(two["batch"]), two["requests_per_second"])


def _speed(engines: int, size: int, rate: float) -> Row:
    """Milliseconds of a batch of each engine, and images a second of all."""
    return {
        "engines": engines,
        "batch": size,
        "ms": round(engines * size / rate * 1e3, 3),
        "images_per_second": round(rate),
    }


def _rate(bundle: Path, effort: Effort) -> Mapping[str, float]:
    sizes = map(str, effort.batches[-3:])
    return engine_rate(
        bundle, effort.seconds, "--device", str(effort.device), "--instances-per-device", "2", "--batches", *sizes
    )


def peers(bundle: Path, effort: Effort, asked: argparse.Namespace) -> Iterator[Row]:
    """Everybody's standing beside the engine's, by batch size. Who cannot take part is left out."""
    shape, sizes, cpus = shape_of(load_bundle(bundle)), effort.peer_batches, available_cpus()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ends:
        makers: dict[str, Callable[[], Run]] = {OURS: partial(of_bundle, bundle, cpus, sizes, effort.device)}
        for name, path in exports(Path(folder), asked.libraries, shape, LIBRARIES, torch.float16):
            makers[f"{name}, exported"] = partial(of_graph, path, cpus, sizes, effort.device)
        for mode in ("eager", *effort.compilers):
            name = f"torch, {mode}" if mode == "eager" else f"{COMPILED}, {mode}"
            makers[name] = partial(of_torch, shape, sizes, effort.device, mode, asked.libraries)
        contestants = dict(_warm(makers, effort, ends))
        for size in sizes:
            costs = rounds(contestants, size, effort.rounds, effort.runs * size)
            for name, standing in results(costs, OURS).items():
                yield _standing(size, name, standing)


def _standing(size: int, name: str, standing: Standing) -> Row:
    """Milliseconds of a batch; and times the engine's, with what the middle half of the rounds is between."""
    ratio = standing.wall_ratio
    spread = {"of_engine": ratio.median, "low": ratio.low, "high": ratio.high}
    return {"batch": size, "contestant": name, "ms": round(standing.wall.median * size, 3), **spread}


def _warm(
    makers: Mapping[str, Callable[[], Run]], effort: Effort, ends: contextlib.ExitStack
) -> Iterator[tuple[str, Contestant]]:
    """Those that run every batch size, in time; of the compiled ones the first.

    Raises:
        EOFError: the engine does not.
    """
    has_compiled = False
    for name, make in makers.items():
        if COMPILED in name and has_compiled:
            continue
        contestant = Contestant(make)
        ends.callback(contestant.close)
        try:
            for size in effort.peer_batches:
                contestant.cost(size, size, effort.compile_seconds)
        except (EOFError, TimeoutError) as error:
            if name == OURS:
                raise
            print(f"left out: {name}: {error or 'see above'}", flush=True)
            continue
        has_compiled |= COMPILED in name
        yield name, contestant


def shape_of(bundle: Bundle) -> Shape:
    """Of its network, for the libraries to make the same.

    Raises:
        ValueError: it is no Swin of the first version, which they are asked for here.
    """
    manifest, network = bundle.manifest, bundle.manifest.architecture
    if network.family != "swin":
        raise ValueError(f"{manifest.name} is a {network.family}: leave out the part `peers`")
    return {
        "image_size": manifest.input_height,
        "patch_size": network.patch_size,
        "embed_dim": network.embed_dim,
        "depths": list(network.depths),
        "num_heads": list(network.num_heads),
        "window_size": network.window_sizes[0][0],
        "mlp_ratio": network.mlp_ratio,
        "num_labels": manifest.classes,
    }


def agreement(bundle: Path, effort: Effort, _: argparse.Namespace) -> Iterator[Row]:
    """With the bundle `fp32` that lies beside this one; else, of the golden samples, with what the bundle promises."""
    reference = bundle.parent / "fp32"
    found = _apart(_answers, bundle, effort)
    if reference.is_dir():
        wanted = _apart(_answers, reference, effort)
    else:
        wanted = {"golden": load_bundle(bundle).golden_logits}
    for name, each in wanted.items():
        yield {"images": name, **_agree(found[name], each)}


def _answers(bundle: Path, effort: Effort) -> dict[str, NDArray[np.float32]]:
    """Logits of the golden samples, and of drawn images."""
    loaded = load_bundle(bundle)
    runs = open_unproved(loaded, effort.device, available_cpus(), (1, max(effort.peer_batches)))
    runs.warm_up()  # and no proof before: how far it is off, is what is asked
    drawn = pixels_of(generated(sets=-(-effort.images // 4)), loaded.manifest.preprocessing)[: effort.images]
    return {"golden": logits(runs, golden_pixels(loaded), 1), "drawn": logits(runs, drawn, max(effort.peer_batches))}


def _agree(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> Row:
    """How often the best class is the same; the largest difference of a logit, as a part of their range."""
    top1 = float(np.mean(found.argmax(axis=1) == wanted.argmax(axis=1)))
    delta = float(np.abs(found - wanted).max() / np.ptp(wanted))
    return {"count": len(found), "top1": round(top1, 4), "delta": round(delta, 6)}


def memory(bundle: Path, effort: Effort, _: argparse.Namespace) -> Iterator[Row]:
    """Of the device, over batches of random sizes; it is warm after a tenth of them."""
    batches, samples = _apart(_watch, bundle, effort)
    settled = [taken / MIB for taken in samples[len(samples) // 10 :]]
    yield {"batches": batches, "mib": round(settled[-1], 1), "growth_mib": round(max(settled) - settled[0], 1)}


def _watch(bundle: Path, effort: Effort) -> tuple[int, list[float]]:
    """Batches that were run, until time was up, and bytes that were taken from time to time."""
    run = of_bundle(bundle, available_cpus(), effort.batches, effort.device)
    random, samples, batches = Random(0), list[float](), 0
    ends = time.perf_counter() + 30 * effort.seconds
    while batches < effort.sequence and time.perf_counter() < ends:
        run(random.randint(1, max(effort.batches)))
        batches += 1
        if batches % (effort.sequence // SAMPLES) == 0:
            samples.append(_taken(effort.device))
    return batches, samples or [_taken(effort.device)]


def _taken(device: Device) -> float:
    """Bytes of the device by everybody; without one, of this process."""
    return float(nvidia("memory.used")) * MIB if device != CPU else processes.taken(os.getpid()).memory


def nvidia(*queries: str) -> str:
    """What the driver's own program says of the first GPU."""
    command = ["nvidia-smi", f"--query-gpu={','.join(queries)}", "--format=csv,noheader,nounits", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 (the driver's)


def service(bundle: Path, effort: Effort, asked: argparse.Namespace) -> Iterator[Row]:
    """Photos over HTTP, in turns with the engine alone and with decoding alone on all cores."""
    http_workers = ("--http-workers", str(asked.http_workers))
    launch = ours(bundle, "swin-serve", *http_workers, device=str(effort.device), max_batch=64)
    yield uvloop.run(_under_load(launch, bundle, asked.photos, effort))


async def _under_load(launch: Launch, bundle: Path, photos: Path | None, effort: Effort) -> Row:
    files = Workload("", effort.photos, (effort.callers,)).files(photos)
    server, bounds = Server(launch), list[dict[str, float]]()
    try:
        with contextlib.closing(Crowd(server.address)) as crowd:
            caller = Caller(server, Traffic(server, crowd, await learn(server, crowd, files)), 0.0)
            for _ in range(effort.rounds):
                await caller.measure(effort.callers, effort.seconds)
                engine_alone = _rate(bundle, effort)["requests_per_second"]
                bounds.append({"engine": engine_alone, "decoding": _decoding(bundle, photos, effort)})
    finally:
        server.stop()
    windows, outcomes = caller.windows[effort.callers], caller.traffic.outcomes
    pairs = zip(windows, bounds, strict=True)
    figures = {
        "share": median(window.requests_per_second / min(bound.values()) for window, bound in pairs),
        **{name: median(getattr(window, name) for window in windows) for name in SHOWN},
        **{name: median(bound[name] for bound in bounds) for name in bounds[0]},
    }
    rounded = {name: round(value, 3) for name, value in figures.items()}
    return {**rounded, "wrong": outcomes.wrong, "lost": outcomes.lost}


def _decoding(bundle: Path, photos: Path | None, effort: Effort) -> float:
    given = () if photos is None else ("--photos", str(photos))
    amount = ("--images", str(effort.photos), "--seconds", str(effort.seconds))
    return figures_of("decoders", str(bundle), *amount, *given)["images_per_second"]


SHOWN = ("requests_per_second", "p50_ms", "cpu_ms", "cores", "caller_us")
"""Of a window."""


def _apart(work: Callable[[Path, Effort], Any], bundle: Path, effort: Effort) -> Any:
    """In a process of its own: sessions disturb each other."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, bundle, effort).result()


PARTS: dict[str, Callable[[Path, Effort, argparse.Namespace], Iterator[Row]]] = {
    "engine": engine,
    "peers": peers,
    "agreement": agreement,
    "memory": memory,
    "service": service,
}
