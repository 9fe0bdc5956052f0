"""Cost of a unit of work as the work grows: `python -m benchmarks.behavior.scale`.

Measures four curves of a real process: connections (1 to 512), images (32×32 to 50 megapixels),
images in a request (1 to 64), and parameters (1 to 200 million) with the stages of the start. Each
curve is measured in several rounds from end to end, so that a disturbance of the machine affects all
of its points; figures are medians. A cliff is a point where a unit costs more CPU time than at the
previous size, by more than the rounds differ (`curve.py`).

The first run builds bundles with random weights in `.cache/`, which takes five minutes and torch.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import uvloop
from PIL import Image

from app.bundle.manifest import MANIFEST, MODEL
from app.load.client_pool import request
from app.load.garbage import no_collections
from app.load.loops import closed_loop
from app.settings import DEMO_BUNDLE
from app.system.processes import peak_rss
from benchmarks.behavior.bundles import SIZES, bundle
from benchmarks.behavior.curve import Point, cliffs
from benchmarks.load.clients import FORM, ConnectionPool, form
from benchmarks.load.images import encode, noise
from benchmarks.load.record import record
from benchmarks.load.served import Served
from tests.references.draw import draw_picture

# Numbers of concurrent connections, and of images in a request.
CONNECTIONS = [2**power for power in range(10)]
BATCHES = [2**power for power in range(7)]

# Width and height of photos and of the images of the curve, in pixels.
PHOTO = (500, 375)
SHAPES = [(32, 32), (224, 224), PHOTO, (1155, 866), (2000, 1500), (4000, 3000), (6000, 4000), (8660, 5773)]

# Log event → the stage of the start that it ends, in seconds.
STAGES = {
    "starting": "imports_s",
    "bundle is whole": "bundle_s",
    "session is open": "session_s",
    "golden samples agree": "golden_s",
    "warm": "warm_up_s",
    "listening": "listening_s",
}
MIB = 2**20

# Columns of the table of each curve: heading → figure, digits after the point.
COLUMNS = {
    "connections": {
        "connections": ("size", 0),
        "requests/s": ("per_second", 0),
        "p50 ms": ("p50_ms", 2),
        "p99 ms": ("p99_ms", 2),
        "CPU ms/request": ("cpu_ms", 3),
    },
    "images": {
        "megapixels": ("size", 3),
        "file MiB": ("sent_mib", 3),
        "p50 ms": ("p50_ms", 2),
        "CPU ms/image": ("cpu_ms", 2),
        "CPU ms/megapixel": ("unit_ms", 2),
    },
    "batches": {
        "images": ("size", 0),
        "images/s": ("images_per_second", 0),
        "p50 ms": ("p50_ms", 2),
        "p99 ms": ("p99_ms", 2),
        "CPU ms/image": ("unit_ms", 3),
    },
    "parameters": {
        "M": ("size", 1),
        "file MiB": ("file_mib", 1),
        "p50 ms": ("p50_ms", 1),
        "CPU ms/M": ("unit_ms", 2),
        **{name.removesuffix("_s").replace("_", "-") + " s": (name, 3) for name in STAGES.values()},
        "ready s": ("ready_s", 2),
        "RSS MiB": ("rss_mib", 0),
        "peak MiB": ("peak_mib", 0),
        "batch 1: RSS": ("rss_of_1_mib", 0),
        "peak": ("peak_of_1_mib", 0),
        "files": ("files_held", 2),
    },
}


class Effort(NamedTuple):
    """Amount of work."""

    rounds: int
    seconds: float  # of load, for each point in each round
    bundles: Sequence[str]


FULL, QUICK = Effort(3, 1.0, tuple(SIZES)), Effort(1, 0.2, tuple(SIZES)[:1])

Row = Mapping[str, float]


async def connections(effort: Effort) -> Sequence[Point]:
    """Measure digits from concurrent connections.

    The queue is large enough to refuse no request.
    """
    sent = request("/classify", noise(Random(0)))
    with _serving("--max-queue-size", "1024") as served:
        return await _curve(effort, CONNECTIONS, lambda clients: _load(served, sent, effort, int(clients)), lambda _: 1)


async def images(effort: Effort, picture: Image.Image) -> Sequence[Point]:
    """Measure JPEGs, one after the other, on the small demonstration network.

    The unit is a megapixel.
    """
    sent = {width * height / 1e6: request("/classify", _jpeg(picture, width, height)) for width, height in SHAPES}
    with _serving() as served:

        async def measure(size: float) -> Row:
            return {**await _load(served, sent[size], effort), "sent_mib": len(sent[size]) / MIB}

        return await _curve(effort, sent, measure)


async def batches(effort: Effort) -> Sequence[Point]:
    """Measure batch requests of digits, one after the other. The unit is an image."""
    digits = [noise(Random(seed)) for seed in range(max(BATCHES))]
    sent = {size: request("/classify/batch", form("files", digits[:size]), headers=FORM) for size in BATCHES}
    with _serving() as served:

        async def measure(size: float) -> Row:
            row = await _load(served, sent[int(size)], effort)
            return {**row, "images_per_second": size * row["per_second"]}

        return await _curve(effort, BATCHES, measure)


async def parameters(effort: Effort, picture: Image.Image) -> Sequence[Point]:
    """Measure starts, and photos one after the other, on networks of different sizes.

    The unit is a million parameters. Memory is measured twice: with batches of 8, where activations
    need memory too, and with batches of 1, where weights are nearly all of it. `files_held` is the
    latter, without the memory of the smallest network, in units of the size of the model file.
    """
    sent = request("/classify", _jpeg(picture, *PHOTO))
    folders = {_millions(folder): folder for folder in (DEMO_BUNDLE, *map(bundle, effort.bundles))}
    with _serving("--max-batch", "1") as served:
        base = served.usage().rss / MIB

    async def measure(size: float) -> Row:
        options = ("--bundle", str(folders[size]))
        file = (folders[size] / MODEL).stat().st_size / MIB
        with _serving(*options, "--max-batch", "1") as served:
            rss = served.usage().rss / MIB
            single = {
                "rss_of_1_mib": rss,
                "peak_of_1_mib": peak_rss(served.process.pid) / MIB,
                "files_held": (rss - base) / file,
            }
        began = time.time()
        with _serving(*options, "--log-level", "debug") as served:
            start = await _start(served, began)
            row = await _load(served, sent, effort)
            memory = {"rss_mib": served.usage().rss / MIB, "peak_mib": peak_rss(served.process.pid) / MIB}
        return {"file_mib": file, **start, **row, **memory, **single}

    return await _curve(effort, folders, measure)


async def _start(served: Served, began: float) -> Row:
    """Return the seconds of each stage of a start, and the time to the first response of readiness.

    The files are in the page cache, because of earlier starts.
    """
    await ConnectionPool(served.address).ask(request("/health/ready", method="GET"))
    ready = time.time() - began
    ends = {str(event["message"]): datetime.fromisoformat(str(event["time"])).timestamp() for event in served.starting}
    moments = [began, *(ends[event] for event in STAGES)]
    return {
        **{stage: end - start for stage, (start, end) in zip(STAGES.values(), pairwise(moments), strict=True)},
        "ready_s": ready,
        "ready_rss_mib": served.usage().rss / MIB,
    }


async def _load(served: Served, sent: bytes, effort: Effort, clients: int = 1) -> Row:
    """Measure a closed loop of clients that send the same request.

    Raises:
        RuntimeError: an image was not classified.
    """
    pool, seconds = ConnectionPool(served.address), list[float]()

    async def call() -> None:
        started = time.perf_counter()
        reply = await pool.ask(sent)
        if reply.status != HTTPStatus.OK or b'"error"' in reply.body:
            raise RuntimeError(f"expected only predictions, received {reply.name}")
        seconds.append(time.perf_counter() - started)

    await asyncio.gather(*(call() for _ in range(clients)))  # warm-up: connect, and run once
    seconds.clear()
    with no_collections():
        cpu, started = served.usage().cpu_seconds, time.perf_counter()
        await closed_loop(clients, effort.seconds, call)
        cpu, elapsed = served.usage().cpu_seconds - cpu, time.perf_counter() - started
    pool.close()
    p50, p99 = (float(value) * 1e3 for value in np.percentile(seconds, [50, 99]))
    return {"per_second": len(seconds) / elapsed, "p50_ms": p50, "p99_ms": p99, "cpu_ms": cpu / len(seconds) * 1e3}


async def _curve(
    effort: Effort,
    sizes: Iterable[float],
    measure: Callable[[float], Awaitable[Row]],
    units: Callable[[float], float] = lambda size: size,
) -> Sequence[Point]:
    rows: dict[float, list[Row]] = {size: [] for size in sizes}
    for _ in range(effort.rounds):
        for size, rounds in rows.items():
            rounds.append(await measure(size))
    return [Point(size, units(size), rounds) for size, rounds in rows.items()]


@contextlib.contextmanager
def _serving(*options: str) -> Iterator[Served]:
    served = Served(*options)
    try:
        yield served
    finally:
        served.stop()


def _millions(folder: Path) -> float:
    parameters: int = json.loads((folder / MANIFEST).read_bytes())["architecture"]["parameters"]
    return parameters / 1e6


def _jpeg(picture: Image.Image, width: int, height: int) -> bytes:
    """Return a JPEG of the picture, cropped or tiled by reflection to this size.

    The density of details does not depend on the size.
    """
    pixels = np.asarray(picture)
    missing = [(0, max(0, side - own)) for side, own in zip((height, width), pixels.shape, strict=False)]
    tiled = np.pad(pixels, [*missing, (0, 0)], mode="symmetric")[:height, :width]
    return encode(Image.fromarray(tiled), "JPEG")


def _picture(photo: Path | None) -> Image.Image:
    return Image.open(photo).convert("RGB").resize(PHOTO) if photo else draw_picture(*PHOTO)


async def measure(effort: Effort, picture: Image.Image) -> Mapping[str, Sequence[Point]]:
    """Measure all curves, and print each when it is complete. Return them by name."""
    curves = {}
    for name, curve in (
        ("connections", connections(effort)),
        ("images", images(effort, picture)),
        ("batches", batches(effort)),
        ("parameters", parameters(effort, picture)),
    ):
        curves[name] = await curve
        _show(name, curves[name])
    return curves


def _show(name: str, points: Sequence[Point]) -> None:
    columns = COLUMNS[name]
    print(f"\n{name}\n" + "  ".join(columns))
    for point in points:
        figures = {"size": point.size, **point.figures}
        print("  ".join(f"{figures[figure]:{len(head)}.{digits}f}" for head, (figure, digits) in columns.items()))
    for before, after in cliffs(points):
        times = after.figures["unit_ms"] / before.figures["unit_ms"]
        print(f"cliff: from {before.size:g} to {after.size:g} a unit costs {times:.2f} times as much")
    sys.stdout.flush()


def main() -> int:
    """Measure, print and record. Return 1 if there is a cliff."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.behavior.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short run without a record")
    parser.add_argument("--rounds", type=int, default=FULL.rounds, help="of each curve (default: %(default)s)")
    parser.add_argument("--photo", type=Path, metavar="FILE", help="picture to tile (default: a drawn one)")
    args = parser.parse_args()
    effort = QUICK if args.quick else FULL._replace(rounds=args.rounds)
    curves = uvloop.run(measure(effort, _picture(args.photo)))
    found = {name: [[each.size for each in pair] for pair in cliffs(points)] for name, points in curves.items()}
    if not args.quick:
        rows = {name: [point.row() for point in points] for name, points in curves.items()}
        record("scale", {"rounds": effort.rounds, **rows, "cliffs": found})
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
