"""The deployment of `deploy/ray` beside variants of it and swin-serve: `python -m benchmarks.behavior.ray_serve`.

Run it in `.venv/ray`, which `make test-ray` creates. Each variant has one replica with one CPU, and swin-serve has one
thread for its engine. Rounds of closed loops ask each variant in turn for digits of the demonstration. The CPU time is
that of all processes of Ray together, with the proxy and the controller, and of the process of swin-serve. The CPU time
of this process, in which handles run, does not count. `inside` is a replica that loads itself, without Ray's transport.
Each answer to this process must be right.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from itertools import cycle
from typing import Any, NamedTuple

import uvloop

from app.load.client_pool import Address, ClientPool, request
from app.local_model import open_model
from app.settings import DEMO_BUNDLE
from app.system.ports import free_port
from app.system.processes import resource_usage
from benchmarks.load.clients import timed_loop
from benchmarks.load.images import Known
from benchmarks.load.ray_cluster import ROOT, running_cluster
from benchmarks.load.record import record
from benchmarks.load.served import Served

# Numbers of concurrent requests, each with the number of requests in a round.
LOADS = {1: 300, 32: 2000}

# The column whose figures the others are compared with.
REFERENCE = "HTTP, batcher"

# The variant without routes.
FACADE = "open_model"

# Asks for one image, and raises an error if the answer is wrong.
Ask = Callable[[Known], Awaitable[None]]

# Runs a closed loop of so many clients and so many requests.
Measure = Callable[[int, int], Awaitable["Round"]]


class Round(NamedTuple):
    """Figures of one round."""

    requests_per_second: float
    cpu_ms: float  # of the server, for a request
    p50_ms: float
    p99_ms: float


def golden_digits() -> list[Known]:
    """Return the golden samples of the demonstration, with the classes of a model in this process."""
    images = [path.read_bytes() for path in sorted((DEMO_BUNDLE / "golden").glob("*.png"))]
    with open_model(DEMO_BUNDLE, device="cpu") as model:
        found = [model.classify(image).predictions for image in images]
    return [Known(image, [(each.index, each.score) for each in row]) for image, row in zip(images, found, strict=True)]


def over_http(pool: ClientPool, path: str) -> Ask:
    """Return a request to a path of a server."""

    async def ask(image: Known) -> None:
        response = await pool.send(request(path, image.data))
        if response.status != HTTPStatus.OK or not image.matches(json.loads(response.body)["predictions"]):
            raise RuntimeError(f"wrong answer of {path}: {response}")

    return ask


def over_handle(handle: Any) -> Ask:
    """Return a call of a handle."""

    async def ask(image: Known) -> None:
        result = await handle.classify.remote(image.data)
        if not image.matches([vars(each) for each in result.predictions]):
            raise RuntimeError(f"wrong answer of a handle: {result}")

    return ask


def measured_by(ask: Ask, digits: Sequence[Known]) -> Measure:
    """Return the measurement of requests of this process. All processes below it are servers."""
    images = cycle(digits)

    async def measure(clients: int, count: int) -> Round:
        before = cpu_seconds()
        seconds, times = await timed_loop(clients, count, lambda: ask(next(images)))
        return figures_of(seconds, cpu_seconds() - before, times)

    return measure


def measured_over_http(address: Address, path: str, digits: Sequence[Known]) -> Measure:
    """Return the measurement of requests to a path. Each round has connections of its own: idle ones are closed."""

    async def measure(clients: int, count: int) -> Round:
        pool = ClientPool(address)
        try:
            return await measured_by(over_http(pool, path), digits)(clients, count)
        finally:
            pool.close()

    return measure


def measured_inside(handle: Any, digits: Sequence[Known]) -> Measure:
    """Return the measurement of a replica that loads itself, without proxy and handles."""

    async def measure(clients: int, count: int) -> Round:
        return figures_of(*await handle.load.remote([digit.data for digit in digits], clients, count))

    return measure


def figures_of(seconds: float, cpu: float, times: Sequence[float]) -> Round:
    """Return the figures of a round: its seconds, the CPU seconds of the server, and those of each request."""
    cuts = statistics.quantiles(times, n=100)
    return Round(len(times) / seconds, cpu / len(times) * 1e3, cuts[49] * 1e3, cuts[98] * 1e3)


def cpu_seconds() -> float:
    """Return the CPU time of all processes below this one."""
    return resource_usage(os.getpid()).cpu_seconds - time.process_time()


async def compare(measures: Mapping[str, Measure], rounds: int) -> dict[str, Any]:
    """Return the figures of each variant by number of clients: medians, and ratios to the reference in each round."""
    figures = {}
    for clients, count in LOADS.items():
        found: dict[str, list[Round]] = {name: [] for name in measures}
        for number in range(-1, rounds):  # the first round is a warm-up
            names = list(measures)[number % len(measures) :] + list(measures)[: number % len(measures)]
            for name in names if number % 2 else reversed(names):
                figure = await measures[name](clients, count)
                if number >= 0:
                    found[name].append(figure)
            print(f"{clients} clients: round {number + 1} of {rounds}", file=sys.stderr)
        figures[f"{clients} clients"] = {name: row(each, found[REFERENCE]) for name, each in found.items()}
    return figures


def row(found: Sequence[Round], reference: Sequence[Round]) -> dict[str, float]:
    """Return the medians of the rounds, and the median ratio of CPU time with its quartiles."""
    medians = {
        name: statistics.median(each) for name, each in zip(Round._fields, zip(*found, strict=True), strict=True)
    }
    ratios = [each.cpu_ms / other.cpu_ms for each, other in zip(found, reference, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    figures = medians | {"cpu_ratio": middle, "cpu_ratio_low": low, "cpu_ratio_high": high}
    return {name: round(value, 3) for name, value in figures.items()}


def run(rounds: int) -> dict[str, Any]:
    """Start all servers, and return the figures."""
    from ray import serve  # noqa: PLC0415 (slow to import)

    sys.path.insert(0, str(ROOT / "deploy" / "ray"))
    from benchmarks.behavior.ray_variants import applications  # noqa: PLC0415 (needs the path)

    port, digits = free_port(), golden_digits()
    with running_cluster(cpus=8, log_to_driver=False):
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
        handles = {
            name: serve.run(application, name=f"app{number}", route_prefix=f"/{number}")
            for number, (name, application) in enumerate(applications().items())
        }
        served = Served("--threads", "1")
        try:
            return uvloop.run(ask_all(handles, ("127.0.0.1", port), digits, rounds, served))
        finally:
            served.stop()


async def ask_all(
    handles: Mapping[str, Any], proxy: Address, digits: Sequence[Known], rounds: int, served: Served
) -> dict[str, Any]:
    """Return the figures of all variants."""
    measures = {"HTTP, swin-serve without Ray": measured_over_http(served.address, "/classify", digits)}
    for number, (name, handle) in enumerate(handles.items()):
        measures[f"handle, {name}"] = measured_by(over_handle(handle), digits)
        if name != FACADE:
            measures[f"HTTP, {name}"] = measured_over_http(proxy, f"/{number}/classify", digits)
            measures[f"inside, {name}"] = measured_inside(handle, digits)
    return await compare(measures, rounds)


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.behavior.ray_serve", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    figures = run(args.rounds)
    for load, rows in figures.items():
        print(f"{load:32} req/s  CPU ms   p50 ms   p99 ms   CPU ratio (quartiles)")
        for name, each in rows.items():
            print(
                f"  {name:30}{each['requests_per_second']:6.0f}{each['cpu_ms']:8.2f}{each['p50_ms']:9.2f}"
                f"{each['p99_ms']:9.2f}{each['cpu_ratio']:8.2f} ({each['cpu_ratio_low']:.2f} to "
                f"{each['cpu_ratio_high']:.2f})"
            )
    record("ray_serve", {"rounds": args.rounds, "loads": figures})


if __name__ == "__main__":
    main()
