"""The engine and the service on an NVIDIA GPU: `python -m benchmarks.gpu`. Needs the machine, and no network.

Swin-T, S, B and L in fp16 with random weights, exported on the spot, or the bundles of `--bundle`. Part by part:

    engine      one batch after the other, of 1 to 128 images; and two engines on the device at once
    peers       beside torch, as it comes and compiled, and beside plain exports of the libraries' networks, all in fp16
    agreement   with the float32 bundle on the same device: the golden samples, and drawn images
    memory      of the device, while batches of random sizes run
    service     photos over HTTP, against the engine's own rate or what the cores can decode, whichever is less

Contestants have a process each and take turns, round by round; figures are medians. Torch is compiled with
`max-autotune`, or by default where that fails or takes too long: its name says which. Torch and the engine begin with
bytes in the host's memory, plain exports with floats that somebody has normalised already; all end with logits there.

What is measured is kept at once in `results/gpu.json`, beside what runs before have left there of the same code on the
same machine, so that parts and sizes can be measured one by one. Exits with 1 if a goal is missed. `--dry-run` does all
that a CPU can do of it with a small network, in a minute, and keeps nothing.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import uvloop
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from app import bundle as bundles
from app.bundle import Bundle
from app.cpus import available_cpus
from app.engine import Device
from app.golden import golden_pixels, open_unproved
from app.image import MOST_PIXELS, Limits, open_image, to_rgb
from app.preprocess import preprocess
from benchmarks import processes
from benchmarks.contest import Contestant as Caller
from benchmarks.contest import Workload, engine_rate, learn
from benchmarks.crowd import Crowd
from benchmarks.model import of_bundle, of_graph
from benchmarks.models import made
from benchmarks.networks import Shape, exports, network_of
from benchmarks.record import keep, kept
from benchmarks.server import Launch, Server, ours
from benchmarks.traffic import Traffic
from benchmarks.turns import Contestant, Cost, Run, Standing, in_turn, rounds, standings
from model_export.golden import generated, pixels_of
from model_export.ledger import logits
from model_export.tables import table

SIZES = {size: f"swin-{size.lower()}" for size in "TSBL"}
SMALL = "narrow"
OURS, COMPILED = "engine", "torch.compile"
COMPILERS = ("max-autotune", "default")
LIBRARIES = ("timm", "transformers")
"""Whose networks take part; torch runs that of the first that can be imported."""

MEAN, STD = 127.5, 57.0
"""Of bytes: what is subtracted and divided by makes no difference to the time."""

MIB = 2**20
SAMPLES = 50
"""Of the memory, while a sequence runs; those of its first tenth are its warm-up."""

Row = dict[str, Any]
Rows = list[Row]
"""What a part found: figures by name, in one table."""


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


FULL = Effort("cuda", [1 << power for power in range(8)], (1, 64), 5, 20, 1000, 10_000, 5.0, 200.0, COMPILERS, 60, 256)
DRY = Effort("cpu", (1, 2), (2,), 2, 2, 16, 50, 0.5, 90.0, COMPILERS[1:], 8, 4)


class Goal(NamedTuple):
    """What is to be reached, where it was measured."""

    name: str
    figure: Callable[[Mapping[str, Any]], float]  # of the parts of one network
    least: float = -np.inf
    most: float = np.inf
    network: str | None = None  # of all, where there is none

    @property
    def wanted(self) -> str:
        """For people."""
        return f"≥ {self.least:g}" if self.least > -np.inf else f"≤ {self.most:g}"

    def is_met(self, figure: float) -> bool:
        """Whether it is reached."""
        return self.least <= figure <= self.most


GOALS = (
    Goal("images/s of the engine", lambda parts: _most(parts["engine"]), least=12_000, network=SIZES["T"]),
    Goal("ms of a batch of 1", lambda parts: parts["engine"][0]["ms"], most=0.8, network=SIZES["T"]),
    Goal("torch.compile, of the engine's time", lambda parts: _gain(parts["peers"]), least=1.3),
    Goal("top-1 agreement", lambda parts: min(row["top1"] for row in parts["agreement"]), least=0.995),
    Goal("Δlogit, of the range", lambda parts: max(row["delta"] for row in parts["agreement"]), most=0.02),
    Goal("MiB that memory grows by", lambda parts: parts["memory"][0]["growth_mib"], most=16),
    Goal("share that the service keeps", lambda parts: parts["service"][0]["share"], least=0.85),
    Goal("answers wrong or lost", lambda parts: parts["service"][0]["wrong"] + parts["service"][0]["lost"], most=0),
)


def _most(rows: Rows) -> float:
    return max(float(row["images_per_second"]) for row in rows)


def _gain(rows: Rows) -> float:
    """How many times the engine's time torch takes, compiled, in the batches that suit it best.

    Raises:
        KeyError: torch could not compile.
    """
    gains = [float(row["of_engine"]) for row in rows if COMPILED in row["contestant"]]
    if not gains:
        raise KeyError(COMPILED)
    return min(gains)


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
    return engine_rate(bundle, effort.seconds, "--device", effort.device, "--engines", "2", "--batches", *sizes)


def peers(bundle: Path, effort: Effort, asked: argparse.Namespace) -> Iterator[Row]:
    """Everybody's standing beside the engine's, by batch size. Who cannot take part is left out."""
    shape, sizes, cpus = shape_of(bundles.load(bundle)), effort.peer_batches, available_cpus()
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
            for name, standing in standings(costs, OURS).items():
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


class OnPixels(nn.Module):
    """A library's network behind what the engine's graph begins with."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(self, pixels: Tensor) -> Tensor:
        """Bytes (batch, height, width, 3) → logits."""
        images = (pixels.permute(0, 3, 1, 2).half() - MEAN) / STD
        answer: Tensor = self.network(images)
        return answer


def of_torch(shape: Shape, sizes: Sequence[int], device: Device, mode: str, libraries: Path | None) -> Run:
    """The network of the first library there is, as it is or compiled for each batch size by itself."""
    network = OnPixels(_first(shape, libraries)).to(device)
    runs: Any = network if mode == "eager" else torch.compile(network, mode=mode, dynamic=False)
    side = shape["image_size"]
    pixels = torch.randint(0, 256, (max(sizes), side, side, 3), dtype=torch.uint8, pin_memory=device == "cuda")

    @torch.inference_mode()
    def run(size: int) -> object:
        return runs(pixels[:size].to(device, non_blocking=True)).float().cpu()

    return run


def _first(shape: Shape, libraries: Path | None) -> nn.Module:
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            return network_of(name, shape, libraries)
    raise ImportError(f"none of {LIBRARIES} can be imported")


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
        wanted = {"golden": bundles.load(bundle).golden_logits}
    for name, each in wanted.items():
        yield {"images": name, **_agree(found[name], each)}


def _answers(bundle: Path, effort: Effort) -> dict[str, NDArray[np.float32]]:
    """Logits of the golden samples, and of drawn images."""
    loaded = bundles.load(bundle)
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
    return float(_nvidia("memory.used")) * MIB if device == "cuda" else processes.taken(os.getpid()).memory


def _nvidia(*queries: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={','.join(queries)}", "--format=csv,noheader,nounits", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 (the driver's)


def service(bundle: Path, effort: Effort, asked: argparse.Namespace) -> Iterator[Row]:
    """Photos over HTTP, in turns with the engine alone and with decoding alone on all cores."""
    from app.settings import Settings  # noqa: PLC0415 (no other part needs what a service needs)

    files = Workload("", effort.photos, (effort.callers,)).files(asked.photos)
    frontends = ("--frontends", str(asked.frontends)) if "frontends" in Settings.model_fields else ()
    launch = ours(bundle, "swin-serve", *frontends, device=effort.device, max_batch=64)
    yield uvloop.run(_under_load(launch, bundle, files, effort))


async def _under_load(launch: Launch, bundle: Path, files: Sequence[bytes], effort: Effort) -> Row:
    server, bounds = Server(launch), list[dict[str, float]]()
    try:
        with contextlib.closing(Crowd(server.address)) as crowd:
            caller = Caller(server, Traffic(server, crowd, await learn(server, crowd, files)), 0.0)
            for _ in range(effort.rounds):
                await caller.measure(effort.callers, effort.seconds)
                engine_alone = _rate(bundle, effort)["requests_per_second"]
                bounds.append({"engine": engine_alone, "decoding": decoding_rate(bundle, files, effort.seconds)})
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


SHOWN = ("requests_per_second", "p50_ms", "cpu_ms", "cores", "caller_us")
"""Of a window."""


def decoding_rate(bundle: Path, files: Sequence[bytes], seconds: float) -> float:
    """Images a second that all CPUs can decode and resize, a process each."""
    cpus = available_cpus()
    with ProcessPoolExecutor(cpus, multiprocessing.get_context("spawn")) as pool:
        return sum(pool.map(_decode, [bundle] * cpus, [files] * cpus, [seconds] * cpus))


def _decode(bundle: Path, files: Sequence[bytes], seconds: float) -> float:
    recipe, limits, images = bundles.load(bundle).manifest.preprocessing, Limits(MOST_PIXELS), 0
    started = time.perf_counter()
    while (took := time.perf_counter() - started) < seconds:
        preprocess(to_rgb(open_image(files[images % len(files)], limits)), recipe)
        images += 1
    return images / took


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


def goals(networks: Mapping[str, Mapping[str, Rows]]) -> Rows:
    """How far each goal is reached, where something was measured for it."""
    found = []
    for (name, parts), goal in product(networks.items(), GOALS):
        done = {part: good for part, rows in parts.items() if (good := [row for row in rows if "failed" not in row])}
        with contextlib.suppress(KeyError):
            if goal.network in {None, name}:
                figure = goal.figure(done)
                found.append({"network": name, "goal": goal.name, "wanted": goal.wanted, "found": figure})
                found[-1]["is_met"] = goal.is_met(figure)
    return found


def show(title: str, rows: Rows, console: Console) -> None:
    """As a table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    console.print(table(title, columns, [[str(row.get(name, "")) for name in columns] for row in rows]))


def subjects(asked: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Names and fp16 bundles; each is made when its turn comes, if it is not there yet."""
    for folder in asked.bundle:
        yield bundles.load(folder).manifest.name, folder
    names = [SMALL] if asked.dry_run else [SIZES[size] for size in asked.sizes]
    for name in [] if asked.bundle else names:
        (folder,) = made([f"{name}-half"]).values()
        yield name, folder / "fp16"


def _measured(part: str, bundle: Path, effort: Effort, asked: argparse.Namespace) -> Iterator[Row]:
    """What a part finds, as it comes. If it fails, it says so, and leaves their turn to the others."""
    try:
        yield from PARTS[part](bundle, effort, asked)
    except Exception as error:  # noqa: BLE001 (whatever it is, the time on such a machine is short)
        yield {"failed": f"{type(error).__name__}: {error}"}


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if unknown := set(parts) - PARTS.keys():
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(sorted(unknown))}")
    return parts


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 if a goal is missed, or a part fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=_parts, default=list(PARTS), help="comma separated (default: all)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--bundle", nargs="+", type=Path, default=[], metavar="DIR", help="instead; in fp16")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="JPEGs to send; else pictures are drawn")
    parser.add_argument("--frontends", type=int, default=available_cpus(), help="of the service, if it has any")
    parser.add_argument("--libraries", type=Path, metavar="DIR", help="where timm lies, if elsewhere")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, a small network, nothing is kept")
    asked = parser.parse_args(arguments)
    if not asked.dry_run and shutil.which("nvidia-smi") is None:
        parser.error("there is no NVIDIA GPU here, as there is no nvidia-smi; --dry-run needs none")
    effort, console = DRY if asked.dry_run else FULL, Console(width=140)
    networks: dict[str, dict[str, Rows]] = {} if asked.dry_run else kept("gpu").get("networks", {})
    figures: dict[str, Any] = {"networks": networks, **({} if asked.dry_run else _device())}
    for (name, bundle), part in _pairs(subjects(asked), asked.parts):
        rows = networks.setdefault(name, {})[part] = []
        for row in _measured(part, bundle, effort, asked):
            rows.append(row)
            figures |= (
                {"goals": goals(networks)} if asked.dry_run else keep("gpu", {**figures, "goals": goals(networks)})
            )
        show(f"{name}: {part}", rows, console)
    show("goals", figures["goals"], console)
    print(json.dumps(figures))
    return verdict(figures, is_dry=asked.dry_run)


def verdict(figures: Mapping[str, Any], *, is_dry: bool) -> int:
    """1 if a part has failed, or a goal is missed; of a dry run, a goal is none."""
    rows = [row for parts in figures["networks"].values() for found in parts.values() for row in found]
    return int(any("failed" in row for row in rows) or not (is_dry or all(row["is_met"] for row in figures["goals"])))


def _pairs(found: Iterable[tuple[str, Path]], parts: Sequence[str]) -> Iterator[tuple[tuple[str, Path], str]]:
    """Part by part of one before the next is made."""
    for subject in found:
        for part in parts:
            yield subject, part


def _device() -> dict[str, str | None]:
    return {"gpu": _nvidia("name", "driver_version"), "torch": torch.__version__, "cuda": torch.version.cuda}


if __name__ == "__main__":
    sys.exit(main())
