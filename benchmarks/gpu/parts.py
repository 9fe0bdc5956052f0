"""The parts of `benchmarks/gpu/command.py`. Each measures one aspect of an fp16 bundle, row by row.

Knows nothing about goals and records.
"""

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
from app.inference.self_test import golden_pixels, open_unverified
from app.load.client_pool import ClientPool
from app.system import processes
from app.system.cpus import available_cpus
from app.system.device import CPU, Device
from benchmarks.comparison.server import Launch, Server, swin_serve
from benchmarks.comparison.traffic import Traffic
from benchmarks.comparison.workload import Candidate, Workload, engine_rate, learn, run_benchmark
from benchmarks.gpu.goals import COMPILED, Row
from benchmarks.model.compiled import LIBRARIES, of_torch
from benchmarks.model.costs import of_bundle, of_graph
from benchmarks.model.interleave import CandidateProcess, Cost, Result, Run, interleaved, results, rounds
from benchmarks.model.networks import Shape, exports
from model_export.verification.images import generate_images, preprocess_images
from model_export.verification.precision_report import run_in_batches

ENGINE = "engine"
COMPILERS = ("max-autotune", "reduce-overhead", "default")

MIB = 2**20

# Samples of the memory during a sequence. The first tenth of them is warm-up.
SAMPLES = 50


class Effort(NamedTuple):
    """Amounts of work in each part."""

    device: Device
    batches: Sequence[int]  # batch sizes of the engine
    baseline_batches: Sequence[int]  # batch sizes of baselines: compilation takes minutes for each
    rounds: int
    runs: int  # batches of each size, in a round
    images: int  # drawn images of the part agreement
    sequence: int  # batches of the part memory
    seconds: float  # length of a window; the part memory takes at most 30 times as long
    compile_seconds: float  # timeout for one batch size
    compilers: Sequence[str]  # modes of torch.compile; the first that works takes part
    photos: int
    clients: int


FULL = Effort(
    Device("cuda"), [1 << power for power in range(8)], (1, 64), 5, 20, 1000, 10_000, 5.0, 200.0, COMPILERS, 60, 256
)
DRY = Effort(CPU, (1, 2), (2,), 2, 2, 16, 50, 0.5, 90.0, COMPILERS[-1:], 8, 4)


def engine(bundle: Path, effort: Effort, _: argparse.Namespace) -> Iterator[Row]:
    """Measure one batch at a time, with interleaved batch sizes; then two engines concurrently.

    The two engines run the best of the three largest batch sizes.
    """
    candidate = CandidateProcess(partial(of_bundle, bundle, available_cpus(), effort.batches, effort.device))
    costs: dict[int, list[Cost]] = {size: [] for size in effort.batches}
    for number in range(effort.rounds):
        for size in interleaved(effort.batches, number):
            costs[size].append(candidate.cost(size, effort.runs * size))
    candidate.close()
    for size, found in costs.items():
        yield _speed(1, size, 1e3 / median(cost.wall for cost in found))
    two = _rate(bundle, effort)
    yield _speed(2, int(two["batch"]), two["requests_per_second"])


def _speed(engines: int, size: int, rate: float) -> Row:
    """Return a row with the time of a batch of one engine, and the rate of all engines."""
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


def baselines(bundle: Path, effort: Effort, args: argparse.Namespace) -> Iterator[Row]:
    """Compare torch and plain exports with the engine, by batch size. Leave out what fails."""
    shape, sizes, cpus = shape_of(load_bundle(bundle)), effort.baseline_batches, available_cpus()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ends:
        makers: dict[str, Callable[[], Run]] = {ENGINE: partial(of_bundle, bundle, cpus, sizes, effort.device)}
        for name, path in exports(Path(folder), args.libraries, shape, LIBRARIES, torch.float16):
            makers[f"{name}, exported"] = partial(of_graph, path, cpus, sizes, effort.device)
        for mode in ("eager", *effort.compilers):
            name = f"torch, {mode}" if mode == "eager" else f"{COMPILED}, {mode}"
            makers[name] = partial(of_torch, shape, sizes, effort.device, mode, args.libraries)
        candidates = dict(_warm_up(makers, effort, ends))
        for size in sizes:
            costs = rounds(candidates, size, effort.rounds, effort.runs * size)
            for name, result in results(costs, ENGINE).items():
                yield _result_row(size, name, result)


def _result_row(size: int, name: str, result: Result) -> Row:
    """Return a row with the time of a batch, and its ratio to the engine's with quartiles."""
    ratio = result.wall_ratio
    spread = {"of_engine": ratio.median, "low": ratio.low, "high": ratio.high}
    return {"batch": size, "candidate": name, "ms": round(result.wall.median * size, 3), **spread}


def _warm_up(
    makers: Mapping[str, Callable[[], Run]], effort: Effort, ends: contextlib.ExitStack
) -> Iterator[tuple[str, CandidateProcess]]:
    """Yield the candidates that run every batch size within the timeout; of the compiled ones the first.

    Raises:
        EOFError: the engine fails.
        TimeoutError: the engine takes too long.
    """
    has_compiled = False
    for name, make in makers.items():
        if COMPILED in name and has_compiled:
            continue
        candidate = CandidateProcess(make)
        ends.callback(candidate.close)
        try:
            for size in effort.baseline_batches:
                candidate.cost(size, size, effort.compile_seconds)
        except (EOFError, TimeoutError) as error:
            if name == ENGINE:
                raise
            print(f"left out: {name}: {error or 'see the traceback above'}", flush=True)
            continue
        has_compiled |= COMPILED in name
        yield name, candidate


def shape_of(bundle: Bundle) -> Shape:
    """Return the hyperparameters of the bundle's network, for the libraries to build the same.

    Raises:
        ValueError: the network is not a Swin V1, which the libraries are asked for here.
    """
    manifest, network = bundle.manifest, bundle.manifest.architecture
    if network.family != "swin":
        raise ValueError(f"{manifest.name} is a {network.family}, not a swin: leave out the part `baselines`")
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
    """Compare logits with those of the bundle `fp32` in the same folder.

    Without that bundle, compare only the golden samples, with the logits that the bundle holds.
    """
    reference = bundle.parent / "fp32"
    found = _in_process(_logits, bundle, effort)
    if reference.is_dir():
        expected = _in_process(_logits, reference, effort)
    else:
        expected = {"golden": load_bundle(bundle).golden_logits}
    for name, each in expected.items():
        yield {"images": name, **_agreement(found[name], each)}


def _logits(bundle: Path, effort: Effort) -> dict[str, NDArray[np.float32]]:
    """Return the logits of the golden samples and of drawn images."""
    loaded = load_bundle(bundle)
    runs = open_unverified(loaded, effort.device, available_cpus(), (1, max(effort.baseline_batches)))
    runs.warm_up()  # without the self-test: this part measures the deviation
    pixels = preprocess_images(generate_images(sets=-(-effort.images // 4)), loaded.manifest.preprocessing)
    drawn = pixels[: effort.images]
    return {
        "golden": run_in_batches(runs, golden_pixels(loaded), 1),
        "drawn": run_in_batches(runs, drawn, max(effort.baseline_batches)),
    }


def _agreement(found: NDArray[np.float32], expected: NDArray[np.float32]) -> Row:
    """Return the share of equal best classes, and the maximum difference of a logit relative to their range."""
    top1 = float(np.mean(found.argmax(axis=1) == expected.argmax(axis=1)))
    delta = float(np.abs(found - expected).max() / np.ptp(expected))
    return {"count": len(found), "top1": round(top1, 4), "delta": round(delta, 6)}


def memory(bundle: Path, effort: Effort, _: argparse.Namespace) -> Iterator[Row]:
    """Measure the growth of device memory over batches of random sizes, after a warm-up of a tenth."""
    batches, samples = _in_process(_sample_memory, bundle, effort)
    warm = [sample / MIB for sample in samples[len(samples) // 10 :]]
    yield {"batches": batches, "mib": round(warm[-1], 1), "growth_mib": round(max(warm) - warm[0], 1)}


def _sample_memory(bundle: Path, effort: Effort) -> tuple[int, list[float]]:
    """Run batches until the sequence or the time ends.

    Return their number, and samples of the memory.
    """
    run = of_bundle(bundle, available_cpus(), effort.batches, effort.device)
    random, samples, batches = Random(0), list[float](), 0
    ends = time.perf_counter() + 30 * effort.seconds
    while batches < effort.sequence and time.perf_counter() < ends:
        run(random.randint(1, max(effort.batches)))
        batches += 1
        if batches % (effort.sequence // SAMPLES) == 0:
            samples.append(_used_memory(effort.device))
    return batches, samples or [_used_memory(effort.device)]


def _used_memory(device: Device) -> float:
    """Return the bytes that all processes use on the GPU; on the CPU, the bytes of this process."""
    if device != CPU:
        return float(nvidia_smi("memory.used")) * MIB
    return processes.resource_usage(os.getpid()).memory


def nvidia_smi(*queries: str) -> str:
    """Return these properties of the first GPU, separated by commas."""
    command = ["nvidia-smi", f"--query-gpu={','.join(queries)}", "--format=csv,noheader,nounits", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 (the driver's)


def service(bundle: Path, effort: Effort, args: argparse.Namespace) -> Iterator[Row]:
    """Measure photos over HTTP, interleaved with the engine alone and with decoding alone on all cores."""
    http_workers = ("--http-workers", str(args.http_workers))
    launch = swin_serve(bundle, "swin-serve", *http_workers, device=str(effort.device), max_batch=64)
    yield uvloop.run(_under_load(launch, bundle, args.photos, effort))


async def _under_load(launch: Launch, bundle: Path, photos: Path | None, effort: Effort) -> Row:
    files = Workload("", effort.photos, (effort.clients,)).files(photos)
    server, bounds = Server(launch), list[dict[str, float]]()
    try:
        with contextlib.closing(ClientPool(server.address)) as pool:
            candidate = Candidate(server, Traffic(server, pool, await learn(server, pool, files)), 0.0)
            for _ in range(effort.rounds):
                await candidate.measure(effort.clients, effort.seconds)
                engine_alone = _rate(bundle, effort)["requests_per_second"]
                bounds.append({"engine": engine_alone, "decoding": _decoding_rate(bundle, photos, effort)})
    finally:
        server.stop()
    windows, outcomes = candidate.windows[effort.clients], candidate.traffic.outcomes
    pairs = zip(windows, bounds, strict=True)
    figures = {
        "share": median(window.requests_per_second / min(bound.values()) for window, bound in pairs),
        **{name: median(getattr(window, name) for window in windows) for name in WINDOW_FIGURES},
        **{name: median(bound[name] for bound in bounds) for name in bounds[0]},
    }
    rounded = {name: round(value, 3) for name, value in figures.items()}
    return {**rounded, "wrong": outcomes.wrong, "lost": outcomes.lost}


def _decoding_rate(bundle: Path, photos: Path | None, effort: Effort) -> float:
    given = () if photos is None else ("--photos", str(photos))
    amount = ("--images", str(effort.photos), "--seconds", str(effort.seconds))
    return run_benchmark("behavior.decoders", str(bundle), *amount, *given)["images_per_second"]


# Figures of a window that the part service reports.
WINDOW_FIGURES = ("requests_per_second", "p50_ms", "cpu_ms", "cores", "client_us")


def _in_process(work: Callable[[Path, Effort], Any], bundle: Path, effort: Effort) -> Any:
    """Call `work` in a separate process, because sessions in one process affect each other."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, bundle, effort).result()


PARTS: dict[str, Callable[[Path, Effort, argparse.Namespace], Iterator[Row]]] = {
    "engine": engine,
    "baselines": baselines,
    "agreement": agreement,
    "memory": memory,
    "service": service,
}
