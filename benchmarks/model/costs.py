"""Cost of one image on the CPU, without a service: `python -m benchmarks.model`.

Swin-T of 224×224 with random weights. Each candidate runs in its own process, in interleaved rounds:

    engine          the bundle of swin-serve, opened and run as the service does
    engine, int8    the same with `--precision int8`
    products        the matrix products of that graph alone: the minimum of every float32 graph
    transformers, timm, torchvision    plain ONNX exports of the libraries' networks
    torch           the network of transformers, not exported

All candidates have the same number of threads, and idle threads do not spin. The ONNX graphs run on
the same ONNX Runtime. Libraries that cannot be imported are left out.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from rich.console import Console

from app.bundle.load import load_bundle
from app.errors import DeviceError
from app.inference.self_test import open_verified
from app.inference.session import PROVIDERS
from app.system.cpus import available_cpus
from app.system.device import CPU, Device
from benchmarks.load.record import record
from benchmarks.model.interleave import CandidateProcess, Result, Run, Spread, results, rounds
from benchmarks.model.networks import SWIN_T, Logits, exports
from benchmarks.model.products import products_of
from model_export.build import build
from model_export.console import Progress, table
from model_export.verification.precision_report import PrecisionOptions
from tests.support.networks import save_checkpoint

SIZES = 1, 2, 4, 8
ENGINE, INT8, FLOOR, EAGER = "engine", "engine, int8", "products", "torch"
FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def of_bundle(folder: Path, threads: int, sizes: Sequence[int] = SIZES, device: Device = CPU) -> Run:
    """Open the engine of the service, verified and warm, and return a function that runs it."""
    engine = open_verified(load_bundle(folder), device, threads, sizes)
    pixels = np.random.default_rng(0).integers(0, 256, (max(sizes), *engine.image_shape), np.uint8)
    return lambda size: engine.run(pixels[:size])


def of_graph(path: Path, threads: int, sizes: Sequence[int] = SIZES, device: Device = CPU) -> Run:
    """Open a graph with float inputs with the engine's session options, and return a function that runs it.

    Raises:
        DeviceError: ONNX Runtime fell back to another device.
    """
    session = session_of(path, threads, device=device)
    if session.get_providers()[0] != PROVIDERS[device.kind]:
        raise DeviceError(f"{path.name} runs on {session.get_providers()[0]}")
    random = np.random.default_rng(0)
    batch = {
        value.name: random.standard_normal((max(sizes), *value.shape[1:]), np.float32).astype(FLOATS[value.type])
        for value in session.get_inputs()
    }
    return lambda size: session.run(None, {name: values[:size] for name, values in batch.items()})


def of_torch(threads: int) -> Run:
    """Return a function that runs the network of transformers in torch."""
    torch.set_num_threads(threads)
    network, images = Logits(SWIN_T).eval(), torch.randn(max(SIZES), 3, SWIN_T["image_size"], SWIN_T["image_size"])

    @torch.inference_mode()
    def run(size: int) -> object:
        return network(images[:size])

    return run


def session_of(
    path: Path, threads: int, *, profile: Path | None = None, device: Device = CPU
) -> onnxruntime.InferenceSession:
    """Open a session with the options of the engine that affect the time, and with an optional profile."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if device != CPU:
        onnxruntime.preload_dlls()
    return onnxruntime.InferenceSession(path, options, providers=[PROVIDERS[device.kind]])


def operators(path: Path, threads: int, folder: Path) -> dict[str, tuple[int, float]]:
    """Return the nodes and milliseconds of each operator in a batch of 1, after graph optimization."""
    session = session_of(path, threads, profile=folder / "profile")
    (pixels,) = session.get_inputs()
    image = np.random.default_rng(0).integers(0, 256, (1, *pixels.shape[1:]), np.uint8)
    for _ in range(20):
        session.run(["logits"], {pixels.name: image})
    times = defaultdict[tuple[str, str], list[float]](list)
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
    found = defaultdict[str, list[float]](list)
    for (operator, _), taken in times.items():
        found[operator].append(float(np.median(taken)))
    parts = {operator: (len(taken), round(sum(taken), 3)) for operator, taken in found.items()}
    return dict(sorted(parts.items(), key=lambda part: -part[1][1]))


def prepare(folder: Path, threads: int, libraries: Path | None) -> dict[str, Run]:
    """Write the bundles and exports to the folder.

    Return the functions that open the candidates.
    """
    checkpoint, quiet = str(save_checkpoint(folder / "checkpoint", **SWIN_T)), Progress(quiet=True)
    build(checkpoint, folder / "fp32", progress=quiet)
    build(checkpoint, folder / "int8", precision=PrecisionOptions("int8", min_agreement=0), progress=quiet)
    onnx.save(products_of(onnx.load(folder / "fp32/model.onnx")), folder / "products.onnx")
    makers: dict[str, Any] = {
        ENGINE: partial(of_bundle, folder / "fp32", threads),
        INT8: partial(of_bundle, folder / "int8", threads),
        FLOOR: partial(of_graph, folder / "products.onnx", threads),
        EAGER: partial(of_torch, threads),
    }
    return makers | {name: partial(of_graph, path, threads) for name, path in exports(folder, libraries)}


def compare(makers: Mapping[str, Any], count: int) -> dict[int, dict[str, Result]]:
    """Return the results of all candidates relative to the engine, by batch size."""
    candidates = {name: CandidateProcess(make) for name, make in makers.items()}
    found = {size: results(rounds(candidates, size, count), ENGINE) for size in SIZES}
    for candidate in candidates.values():
        candidate.close()
    return found


def show(found: Mapping[int, Mapping[str, Result]], parts: Mapping[str, tuple[int, float]], console: Console) -> None:
    """Print the results and the operators as tables."""
    for size, rows in found.items():
        columns = ("", "ms an image", "CPU ms", "of the engine", "CPU, of the engine")
        cells = [(name, *(_shown(spread) for spread in result)) for name, result in rows.items()]
        console.print(table(f"batch of {size}: median [quartiles]", columns, cells))
    cells = [(name, str(nodes), f"{milliseconds:.2f}") for name, (nodes, milliseconds) in parts.items()]
    console.print(table("engine, batch of 1", ("operator", "nodes", "ms"), cells))


def _shown(spread: Spread) -> str:
    return f"{spread.median:.2f} [{spread.low:.2f}–{spread.high:.2f}]"


def as_json(result: Result) -> dict[str, dict[str, float]]:
    """Return the medians and quartiles by name."""
    return {name: spread._asdict() for name, spread in result._asdict().items()}


def main() -> int:
    """Measure, print and record. Return 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="of each candidate (default: all CPUs)")
    parser.add_argument(
        "--libraries", type=Path, metavar="DIR", help="folder of timm and torchvision, if they are not installed"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        makers = prepare(folder, args.threads, args.libraries)
        found = compare(makers, args.rounds)
        parts = operators(folder / "fp32/model.onnx", args.threads, folder)
    show(found, parts, Console(width=140))
    libraries = {name: version(name) for name in ("torch", "transformers", "onnx")}
    batches = {f"batch of {size}": {name: as_json(row) for name, row in rows.items()} for size, rows in found.items()}
    settings = {"threads": args.threads, "rounds": args.rounds, "libraries": libraries}
    record("model", {**settings, **batches, "operators": parts})
    return 0
