"""The engine and the service on an NVIDIA GPU: `python -m benchmarks.gpu`. Needs the machine, and no network.

Swin-T, S, B and L in fp16 with random weights, exported on the spot, or the bundles of `--bundle`. Part by part:

    engine      one batch after the other, of 1 to 128 images; and two engines on the device at once
    peers       beside torch, as it comes and compiled, and beside plain exports of the libraries' networks, all in fp16
    agreement   with the float32 bundle on the same device: the golden samples, and drawn images
    memory      of the device, while batches of random sizes run
    service     photos over HTTP, against the engine's own rate or what the cores can decode, whichever is less

Contestants have a process each and take turns, round by round; figures are medians. Torch is compiled with
`max-autotune`, or as well as it can be where that fails or takes too long: its name says which. Torch and the engine
begin with bytes anywhere in the host's memory, plain exports with floats that somebody has normalized already; all end
with logits there.

What is measured is kept at once in `results/gpu.json`, beside what runs before have left there of the same code on the
same machine, so that parts and sizes can be measured one by one. Exits with 1 if a goal is missed. `--dry-run` does all
that a CPU can do of it with a small network, in a minute, and keeps nothing.
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
from benchmarks.gpu.parts import DRY, FULL, PARTS, Effort, nvidia
from benchmarks.load.record import keep, kept
from benchmarks.model.models import made
from model_export.console import table

SIZES = {size: f"swin-{size.lower()}" for size in "TSBL"}
SMALL = "narrow"


def show(title: str, rows: Rows, console: Console) -> None:
    """As a table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    console.print(table(title, columns, [[str(row.get(name, "")) for name in columns] for row in rows]))


def subjects(asked: argparse.Namespace) -> Mapping[str, Callable[[], Path]]:
    """By name, what gives the fp16 bundle, and makes it if it is not there yet."""
    if asked.bundle:
        return {load_bundle(folder).manifest.name: partial(Path, folder) for folder in asked.bundle}
    names = [SMALL] if asked.dry_run else [SIZES[size] for size in asked.sizes]
    return {name: partial(_made, name) for name in names}


def _made(name: str) -> Path:
    (folder,) = made([f"{name}-half"]).values()
    return folder / "fp16"


def found(find: Callable[[], Path], effort: Effort, asked: argparse.Namespace) -> Iterator[tuple[str, Iterator[Row]]]:
    """The bundle, then part by part what is measured of it, as it comes. What fails says so, and others go on."""
    try:
        folder = find()
        size = sum(file.stat().st_size for file in folder.iterdir())
    except Exception as error:  # noqa: BLE001 (whatever it is, the time on such a machine is short)
        yield "export", iter([_failure(error)])
        return
    yield "export", iter([{"bundle": folder.name, "mib": round(size / 2**20, 1)}])
    for part in asked.parts:
        yield part, _until_failure(PARTS[part](folder, effort, asked))


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
    parser.add_argument("--http-workers", type=int, default=available_cpus(), help="of the service, if it has any")
    parser.add_argument("--libraries", type=Path, metavar="DIR", help="where timm lies, if elsewhere")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, a small network, nothing is kept")
    asked = parser.parse_args(arguments)
    if not asked.dry_run and shutil.which("nvidia-smi") is None:
        parser.error("there is no NVIDIA GPU here, as there is no nvidia-smi; --dry-run needs none")
    effort, console = DRY if asked.dry_run else FULL, Console(width=140)
    networks: dict[str, dict[str, Rows]] = {} if asked.dry_run else kept("gpu").get("networks", {})
    figures: dict[str, Any] = {"networks": networks, **({} if asked.dry_run else _device())}
    for name, find in subjects(asked).items():
        for part, rows_found in found(find, effort, asked):
            rows = networks.setdefault(name, {})[part] = []
            for row in rows_found:
                rows.append(row)
                figures["goals"] = goals(networks)
                if not asked.dry_run:
                    figures |= keep("gpu", figures)
            show(f"{name}: {part}", rows, console)
    show("goals", figures["goals"], console)
    print(json.dumps(figures))
    return verdict(figures, is_dry=asked.dry_run)


def verdict(figures: Mapping[str, Any], *, is_dry: bool) -> int:
    """1 if a part has failed, or a goal is missed; of a dry run, a goal is none."""
    rows = [row for parts in figures["networks"].values() for found in parts.values() for row in found]
    return int(any("failed" in row for row in rows) or not (is_dry or all(row["is_met"] for row in figures["goals"])))


def _device() -> dict[str, str | None]:
    return {"gpu": nvidia("name", "driver_version"), "torch": torch.__version__, "cuda": torch.version.cuda}
