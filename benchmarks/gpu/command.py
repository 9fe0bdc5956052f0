"""The engine and the service on an NVIDIA GPU: `python -m benchmarks.gpu`. Needs no network.

Measures Swin-T, S, B and L in fp16 with random weights, exported on the spot, or the bundles of
`--bundle`. The parts:

    engine      batches of 1 to 128 images, one at a time; and two engines on the device concurrently
    baselines   torch, eager and compiled, and plain exports of the libraries' networks, all in fp16
    agreement   golden samples and drawn images, compared with the float32 bundle on the same device
    memory      device memory, while batches of random sizes run
    service     photos over HTTP, relative to the rate of the engine or of decoding, whichever is less

Candidates run in separate processes, in interleaved rounds; figures are medians. Torch is compiled
with `max-autotune`, or with the next mode where that fails or takes too long; the name of the
candidate holds the mode. Torch and the engine start with bytes in pageable host memory. Plain exports
start with normalized floats. All end with logits in host memory.

Each row is saved in `results/gpu.json` as soon as it is measured. Rows of earlier runs of the same
code on the same machine are kept, so that parts and sizes can be measured one by one. The command
exits with 1 if a goal is missed or a part fails. `--dry-run` runs all parts on the CPU with a small
network, in a minute, and saves nothing.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from app.bundle.load import load_bundle
from app.system.cpus import available_cpus
from benchmarks.gpu.goals import Row, Rows, goals
from benchmarks.gpu.parts import DRY, FULL, PARTS, Effort, nvidia_smi
from benchmarks.load import record
from benchmarks.model.workload_models import model_folders
from model_export.console import table

SIZES = {size: f"swin-{size.lower()}" for size in "TSBL"}
SMALL = "narrow"


def show(title: str, rows: Rows, console: Console) -> None:
    """Print the rows as a table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    console.print(table(title, columns, [[str(row.get(name, "")) for name in columns] for row in rows]))


def bundles(args: argparse.Namespace) -> Mapping[str, Callable[[], Path]]:
    """Return, by name, functions that return the folder of an fp16 bundle and build it if needed."""
    if args.bundle:
        return {load_bundle(folder).manifest.name: partial(Path, folder) for folder in args.bundle}
    names = [SMALL] if args.dry_run else [SIZES[size] for size in args.sizes]
    return {name: partial(_fp16_bundle, name) for name in names}


def _fp16_bundle(name: str) -> Path:
    (folder,) = model_folders([f"{name}-half"]).values()
    return folder / "fp16"


def measure(find: Callable[[], Path], effort: Effort, args: argparse.Namespace) -> Iterator[tuple[str, Iterator[Row]]]:
    """Yield each part of a bundle with an iterator of its rows.

    A part that fails ends with a `failed` row.
    """
    try:
        folder = find()
        size = sum(file.stat().st_size for file in folder.iterdir())
    except Exception as error:  # noqa: BLE001 (time on a GPU is short: the other bundles are still measured)
        yield "export", iter([_failure(error)])
        return
    yield "export", iter([{"bundle": folder.name, "mib": round(size / 2**20, 1)}])
    for part in args.parts:
        yield part, _until_failure(PARTS[part](folder, effort, args))


def _until_failure(rows: Iterator[Row]) -> Iterator[Row]:
    try:
        yield from rows
    except Exception as error:  # noqa: BLE001 (likewise)
        yield _failure(error)


def _failure(error: Exception) -> Row:
    return {"failed": f"{type(error).__name__}: {error}"}


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    if unknown := set(parts) - PARTS.keys():
        raise argparse.ArgumentTypeError(f"unknown part: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    return parts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return 1 if a goal is missed or a part fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts", type=_parts, default=list(PARTS), metavar="NAMES", help="comma-separated parts (default: all)"
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="sizes of Swin (default: all)")
    parser.add_argument(
        "--bundle", nargs="+", type=Path, default=[], metavar="DIR", help="fp16 bundles to measure instead"
    )
    parser.add_argument("--photos", type=Path, metavar="DIR", help="folder of JPEGs to send (default: drawn pictures)")
    parser.add_argument(
        "--http-workers", type=int, default=available_cpus(), metavar="N", help="of the service (default: all CPUs)"
    )
    parser.add_argument("--libraries", type=Path, metavar="DIR", help="folder of timm, if it is not installed")
    parser.add_argument("--dry-run", action="store_true", help="run on the CPU with a small network; save nothing")
    args = parser.parse_args(arguments)
    if not args.dry_run and shutil.which("nvidia-smi") is None:
        parser.error("no NVIDIA GPU: nvidia-smi is not on the PATH; use --dry-run to run on the CPU")
    effort, console = DRY if args.dry_run else FULL, Console(width=140)
    networks: dict[str, dict[str, Rows]] = {} if args.dry_run else record.load("gpu").get("networks", {})
    figures: dict[str, Any] = {"networks": networks, **({} if args.dry_run else _device())}
    for name, find in bundles(args).items():
        for part, measured in measure(find, effort, args):
            rows = networks.setdefault(name, {})[part] = []
            for row in measured:
                rows.append(row)
                figures["goals"] = goals(networks)
                if not args.dry_run:
                    figures |= record.save("gpu", figures)
            show(f"{name}: {part}", rows, console)
    show("goals", figures["goals"], console)
    print(json.dumps(figures))
    return verdict(figures, is_dry=args.dry_run)


def verdict(figures: Mapping[str, Any], *, is_dry: bool) -> int:
    """Return 1 if a part failed or a goal is missed. A dry run ignores the goals."""
    rows = [row for parts in figures["networks"].values() for found in parts.values() for row in found]
    return int(any("failed" in row for row in rows) or not (is_dry or all(row["is_met"] for row in figures["goals"])))


def _device() -> dict[str, str | None]:
    return {"gpu": nvidia_smi("name", "driver_version"), "torch": torch.__version__, "cuda": torch.version.cuda}
