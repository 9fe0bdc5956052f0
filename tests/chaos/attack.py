"""An attack: misbehaving clients against a real `swin-serve` with engine failures.

`python -m tests.chaos` runs it. `Attack.violations` checks the claims that must hold and returns a
sentence for each claim that does not.
"""

import argparse
import asyncio
import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Self, TypeVar

import uvloop
from grpc import StatusCode

from app.grpc.proto.descriptors import SERVICE_NAME
from app.load.client_pool import request
from app.load.garbage import no_collections
from app.load.loops import closed_loop
from benchmarks.load.clients import ConnectionPool
from benchmarks.load.images import learn, noise, photo
from benchmarks.load.served import Accounts, Served, Usage, metrics
from tests.chaos import broken_engine
from tests.chaos.client_pool import ClientPool
from tests.chaos.outcomes import ENGINE_FAILED, OVERLOAD, REQUEST_TIMEOUT_S
from tests.chaos.rpc_pool import INFER, RpcPool
from tests.chaos.scenarios import BATCH, DIGIT, SCENARIOS, WELL_BEHAVED, Scenario

T = TypeVar("T")

MAX_BATCH = 8
# Short queues that are full now and then, and short timeouts for engines that hang and for slow
# clients. The timeouts are seconds: on a busy machine, an engine that works or a client that is in
# time can wait a second for a CPU.
OPTIONS = [
    *("--max-batch", str(MAX_BATCH)),
    *("--max-queue-size", "64", "--max-decode-queue-size", "24", "--max-client-batch-size", "16"),
    *("--batch-timeout", "5", "--header-timeout", f"{REQUEST_TIMEOUT_S:g}", "--body-timeout", f"{REQUEST_TIMEOUT_S:g}"),
    *("--grpc-port", "0"),
]

# The longest wait until the service is ready, is idle, or has ended. A longer wait is a hang.
SETTLING_SECONDS = 60

# The longest time of a phase beyond its own seconds. A longer time is a hang.
STALLED_SECONDS = 200

# The capacity of the machine is measured with so many clients for so many seconds. The attack sends
# LOAD_SHARE of the measured rate.
MEASURING_CLIENTS = 16
MEASURING_SECONDS = 1.5
LOAD_SHARE = 0.8

SECONDS_BETWEEN_FAILURES = 0.5
PHOTO_SIZES = [(320, 240), (500, 375), (900, 1200), (2000, 1500)]

# Metrics that are zero when the service is idle.
GAUGES = ("swin_queue_depth", "swin_decode_in_progress", "swin_uploaded_bytes")

# The memory may grow by this part from the end of the warm-up to the end.
MAX_GROWTH = 0.1

# The code in log and metrics of a request whose client did not wait for the response.
CLIENT_CLOSED_REQUEST = 499

# Routes with clients that disconnect. The log has the paths of requests.
INFER_ROUTE, INFER_PATH = "/v2/models/{name}/infer", re.compile("/v2/models/[^/]+/infer")
ATTACKED_ROUTES = ("/classify", "/classify/batch", INFER_ROUTE, INFER)

# The route of requests for no known path, and of those that are refused with one of these codes
# before the service looks for their route.
UNKNOWN, BEFORE_ROUTING = "unknown", {429, 503}

# A sample of the requests in the metrics, and one of its labels.
REQUESTS, LABEL = re.compile(r"swin_requests_total\{(?P<labels>.*)\}"), re.compile(r'(\w+)="([^"]*)"')

# Log events of a batch that failed, one for each.
FAILURE_EVENTS = {"engine failed", "engine timed out"}


@dataclass(frozen=True)
class Report:
    """The result of an attack."""

    outcomes: dict[str, Counter[str]]  # by scenario
    injected: Counter[str]  # failures of the engine
    cancelled: dict[str, float]  # images of disconnected clients, by stage
    rate: float  # scenarios per second
    before: Usage
    after: Usage
    violations: list[str]


@dataclass(frozen=True)
class IdleState:
    """The state of the service when it is idle."""

    usage: Usage
    samples: dict[str, float]
    is_ready: bool


class Attack:
    """One service and its clients. After the block, all connections are closed."""

    def __init__(self, served: Served, fault_file: Path, failures: Sequence[str], seed: int) -> None:
        self._served, self._fault_file, self._random = served, fault_file, Random(seed)
        self._callers, self._failures, self._remaining = ConnectionPool(served.address), cycle(failures), len(failures)
        self._rpc = RpcPool(served.grpc_address, self._random)
        self._accounts = served.watch_requests()
        self._files, self._threads = served.usage().files, sys.maxsize  # when idle, as far as known
        self.outcomes = {scenario.name: Counter[str]() for scenario in SCENARIOS}
        self.injected = Counter[str]()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._callers.close()
        await self._rpc.close()
        await asyncio.sleep(0)  # a connection ends in the next event-loop iteration

    async def make_clients(self) -> ClientPool:
        """Return clients with images of known predictions: each image is classified alone once."""
        digits = await learn(self._callers, [noise(self._random) for _ in range(80)])
        photos = await learn(self._callers, [photo(*size, self._random) for size in PHOTO_SIZES * 2])
        return ClientPool(self._callers, self._rpc, digits, photos, self._random)

    async def measure_rate(self, clients: ClientPool) -> float:
        """Return how many scenarios per second the machine can serve beside its other work."""

        async def run() -> None:
            await self._run(self._random.choices(WELL_BEHAVED, [each.weight for each in WELL_BEHAVED])[0], clients)

        with no_collections():
            before, began = self._finished, time.perf_counter()
            await closed_loop(MEASURING_CLIENTS, MEASURING_SECONDS, run)
            return (self._finished - before) / (time.perf_counter() - began)

    async def run_phase(self, clients: ClientPool, rate: float, seconds: float) -> IdleState:
        """Run scenarios while the engine fails now and then, and return the idle state after it.

        The phase lasts at least so many seconds, and until each scenario and each failure has run.
        """
        async with asyncio.timeout(seconds + STALLED_SECONDS):
            async with asyncio.TaskGroup() as both:
                injecting = both.create_task(self._inject_failures(clients, seconds))
                both.create_task(self._send_load(clients, rate, seconds, injecting))
            return await self._wait_until_idle()

    async def _send_load(self, clients: ClientPool, rate: float, seconds: float, injecting: asyncio.Task[None]) -> None:
        ends = time.perf_counter() + seconds
        weights = [scenario.weight for scenario in SCENARIOS]
        first = self._random.sample(SCENARIOS, len(SCENARIOS))
        async with asyncio.TaskGroup() as runs:
            while first or not injecting.done() or time.perf_counter() < ends:
                scenario = first.pop() if first else self._random.choices(SCENARIOS, weights)[0]
                runs.create_task(self._run(scenario, clients))
                # If this process is late, the next scenarios start later, not all at once.
                await asyncio.sleep(self._random.expovariate(rate))

    async def _run(self, scenario: Scenario, clients: ClientPool) -> str:
        outcome = await scenario(clients)
        self.outcomes[scenario.name][outcome] += 1
        return outcome

    @property
    def _finished(self) -> int:
        return sum(outcomes.total() for outcomes in self.outcomes.values())

    async def _inject_failures(self, clients: ClientPool, seconds: float) -> None:
        """Inject failures one by one, each after the service has recovered from the one before.

        At a low rate, few batches have two images. Requests with several images cause such a batch.
        """
        ends, remaining = time.perf_counter() + seconds * 0.8, self._remaining
        while await self._becomes_ready():
            await asyncio.sleep(SECONDS_BETWEEN_FAILURES)
            while await self._run(DIGIT, clients) != "200":  # noqa: ASYNC110 (another process recovers)
                await asyncio.sleep(0.05)
            if remaining <= 0 and time.perf_counter() > ends:
                return
            remaining -= 1
            failure = next(self._failures)
            broken_engine.inject(failure, self._fault_file)
            self.injected[failure.split()[0]] += 1
            while self._fault_file.exists():
                await self._run(BATCH, clients)
            while await self._failed_batches() < self._expected_failures:  # noqa: ASYNC110 (another process counts)
                await asyncio.sleep(0.05)

    async def _failed_batches(self) -> float:
        return (await metrics(self._callers))["swin_batches_failed_total"]

    @property
    def _expected_failures(self) -> int:
        """The number of injected failures that the service itself can notice."""
        return self.injected.total() - self.injected["cross"]

    async def _becomes_ready(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLING_SECONDS):
                while not await self._is_ready():  # noqa: ASYNC110 (another process becomes ready)
                    await asyncio.sleep(0.1)
                return True
        return False

    async def _is_ready(self) -> bool:
        return (await self._callers.ask(request("/health/ready", method="GET"))).status == 200

    async def _wait_until_idle(self) -> IdleState:
        """Wait until the service has noticed all disconnected clients, or until the timeout."""
        ends, was_idle = time.perf_counter() + SETTLING_SECONDS, False
        while True:
            # A traceback can keep a body alive until it is collected. The signal starts a
            # collection, and the next response comes after it.
            self._served.process.send_signal(signal.SIGUSR1)
            samples, is_ready = await metrics(self._callers), await self._is_ready()
            self._callers.close()
            await self._rpc.close()
            await asyncio.sleep(0.2)
            usage = self._served.usage()
            is_idle = usage.files <= self._files and not any(samples[gauge] for gauge in GAUGES)
            is_whole = is_ready and usage.threads <= self._threads  # threads of timed-out runs have ended
            # Two idle readings in a row are needed: on a busy machine, the last photos are freed
            # after the first signal, and only a collection in the idle state frees their memory.
            if (was_idle and is_idle and is_whole) or time.perf_counter() > ends:
                self._threads = usage.threads
                return IdleState(usage, samples, is_ready)
            was_idle = is_idle and is_whole

    def violations(self, clients: ClientPool, before: IdleState, after: IdleState) -> Iterator[str]:
        """Stop the service, and return a sentence for each claim that does not hold."""
        yield from self._bad_outcomes()
        yield from self._bad_idle_state(before, after)
        self._end()
        if self._served.process.returncode != 0:
            yield f"SIGTERM ended the service with {self._served.process.returncode}"
        yield from _bad_accounts(clients, self._accounts, after.samples)
        yield from self._bad_log()

    def _bad_outcomes(self) -> Iterator[str]:
        for scenario in SCENARIOS:
            for outcome, count in self.outcomes[scenario.name].items():
                if outcome not in scenario.allowed | OVERLOAD | {ENGINE_FAILED}:
                    yield f"{scenario.name}: {outcome}, {count} times"
        failed = sum(outcomes[ENGINE_FAILED] for outcomes in self.outcomes.values())
        maximum = MAX_BATCH * self.injected.total()
        if failed > maximum:
            yield f"{failed} requests failed because of the engine, which failed for at most {maximum} images"

    def _bad_idle_state(self, before: IdleState, after: IdleState) -> Iterator[str]:
        for gauge in GAUGES:
            if after.samples[gauge]:
                yield f"{gauge} is {after.samples[gauge]:.0f} when the service is idle"
        if not after.is_ready:
            yield "the service is not ready again"
        for name in ("files", "threads"):
            old, new = getattr(before.usage, name), getattr(after.usage, name)
            if new > old:
                yield f"{new} {name} when the service is idle; there were {old}"
        growth = after.usage.rss / before.usage.rss - 1
        if growth > MAX_GROWTH:
            yield f"memory grew by {growth:.0%}"

    def _end(self) -> None:
        """Stop the service. After that, its log is complete."""
        self._served.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._served.process.wait(SETTLING_SECONDS)
        self._served.stop()

    def _bad_log(self) -> Iterator[str]:
        failures, alarms = 0, Counter[str]()
        while not self._served.log.empty():
            event = self._served.log.get()
            if event["message"] in FAILURE_EVENTS:
                failures += 1
            elif event["level"] in {"error", "critical"} or "exception" in event:
                trace = str(event.get("exception", event["message"])).splitlines()
                alarms[f"{str(event['message']).splitlines()[0]}: {trace[-1]}"] += 1
        for alarm, count in alarms.items():
            yield f"in the log, {count} times: {alarm}"
        if failures != self._expected_failures:
            yield f"the log has {failures} failed batches; {self._expected_failures} failures were injected"


def _bad_accounts(clients: ClientPool, accounts: Accounts, samples: dict[str, float]) -> Iterator[str]:
    """Check that each request is logged once, with the status that its client got, and counted once."""
    codes, refusals = _by_request(accounts.requests), _by_request(accounts.refusals)
    for identity, status in clients.statuses.items():
        account = [*refusals.get(identity, []), *codes.get(identity, [])]
        if identity in refusals and account[1:] and account[1] >= HTTPStatus.BAD_REQUEST:
            del account[1]  # the application had started the request that the connection then ended
        if len(account) > 1 or (status is not None and account != [status]):
            yield f"{identity} got {status}, and the service logged {account}"
    statuses = _by_request(accounts.calls)
    for identity, called in clients.rpc.statuses.items():
        logged = statuses.get(identity, [])
        if len(logged) > 1 or (called is not None and logged != [called]):
            yield f"{identity} got {called}, and the service logged {logged}"
    yield from _bad_cancellations(clients, accounts)
    yield from _bad_counts(accounts, samples)


def _bad_cancellations(clients: ClientPool, accounts: Accounts) -> Iterator[str]:
    """Check that exactly the requests of clients that did not wait are logged as closed by the client."""
    refused = {identity for identity, _ in accounts.refusals}  # of connections that the service has closed
    for identity, code in accounts.requests:
        if code == CLIENT_CLOSED_REQUEST and identity not in refused and clients.statuses.get(identity) is not None:
            yield f"{identity} got a response, and the service logged {code}"
    # The service makes an id for a call whose connection ends before the id has arrived.
    waited = clients.rpc.statuses.keys() - clients.rpc.canceled
    for identity, status in accounts.calls:
        if status == StatusCode.CANCELLED.name and identity in waited:
            yield f"{identity} was not canceled by its client, and the service logged {status}"
    codes = _by_route(accounts.paths)
    for route in ATTACKED_ROUTES:
        if not codes[route, CLIENT_CLOSED_REQUEST]:
            yield f"no request for {route} is logged as closed by the client"


def _bad_counts(accounts: Accounts, samples: dict[str, float]) -> Iterator[str]:
    """Check that the metrics count each request in the log under its route and code."""
    by_label = Counter[tuple[str, int]]()
    for name, count in samples.items():
        if match := REQUESTS.fullmatch(name):
            labels = dict(LABEL.findall(match["labels"]))
            by_label[labels["route"], int(labels["code"])] += round(count)
    counted = _by_route(by_label)
    logged = _by_route(accounts.paths, {route for route, _ in by_label})
    for key in sorted(counted.keys() | logged.keys()):
        # The last requests for metrics and readiness are not in their own count.
        is_last = key in {("/metrics", HTTPStatus.OK), ("/health/ready", HTTPStatus.OK)}
        if not logged[key] - is_last <= counted[key] <= logged[key]:
            yield f"the metrics have {counted[key]} requests of {key}, the log has {logged[key]}"


def _by_route(paths: Mapping[tuple[str, int], int], routes: Collection[str] | None = None) -> Counter[tuple[str, int]]:
    """Return the number of requests by route and code.

    The service refuses a request of HTTP for overload before it looks for the route.
    """
    found = Counter[tuple[str, int]]()
    for (path, code), count in paths.items():
        route = INFER_ROUTE if INFER_PATH.fullmatch(path) else path if routes is None or path in routes else UNKNOWN
        is_call = route.startswith(f"/{SERVICE_NAME}/")
        found[UNKNOWN if code in BEFORE_ROUTING and not is_call else route, code] += count
    return found


def _by_request(accounts: Sequence[tuple[str, T]]) -> dict[str, list[T]]:
    statuses = dict[str, list[T]]()
    for identity, status in accounts:
        statuses.setdefault(identity, []).append(status)
    return statuses


async def attack(
    *,
    seconds: float,
    warm_up: float,
    seed: int,
    failures: Sequence[str],
    rate: float | None = None,
    options: Sequence[str] = (),
) -> Report:
    """Start a service, warm it up, attack it while its engine fails, and check the claims.

    Warm-up and attack have the same clients and failures. `rate` is in scenarios per second. By
    default, each phase measures the rate of the machine first, and sends a share of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        fault_file = Path(folder) / "fault"
        served = Served(
            *OPTIONS, *options, module="tests.chaos.broken_engine", **{broken_engine.VARIABLE: str(fault_file)}
        )
        try:
            async with Attack(served, fault_file, failures, seed) as run:
                clients = await run.make_clients()
                before = await run.run_phase(clients, rate or LOAD_SHARE * await run.measure_rate(clients), warm_up)
                chosen = rate or LOAD_SHARE * await run.measure_rate(clients)
                after = await run.run_phase(clients, chosen, seconds)
                violations = list(run.violations(clients, before, after))
        finally:
            served.stop()
    cancelled = {name: count for name, count in after.samples.items() if name.startswith("swin_cancelled_total")}
    return Report(run.outcomes, run.injected, cancelled, chosen, before.usage, after.usage, violations)


def main() -> int:
    """Run an attack and print the report. Return 0, or 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--warm-up", type=float, default=30)
    parser.add_argument("--rate", type=float, help="scenarios per second (default: a share of what the machine can do)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--failures",
        nargs="+",
        default=["raise", "rows", "nan", "hang 60"],
        help="the failures of the engine, in turns",
    )
    parser.add_argument(
        "--option", action="append", default=[], dest="options", help="an option of the service: --option=--x=y"
    )
    report = uvloop.run(attack(**vars(parser.parse_args())))
    print(_table(report))
    for violation in report.violations:
        print(f"VIOLATED: {violation}")
    return min(len(report.violations), 1)


def _table(report: Report) -> str:
    return "\n".join(
        [
            *(f"{name:32}{outcomes.total():7}   {_shown(outcomes)}" for name, outcomes in report.outcomes.items()),
            f"scenarios per second: {report.rate:.0f}",
            f"engine failures: {dict(report.injected)}",
            f"images cancelled: {report.cancelled}",
            f"before: {report.before}",
            f"after:  {report.after}",
        ]
    )


def _shown(outcomes: Counter[str]) -> str:
    return ", ".join(f"{outcome} × {count}" for outcome, count in outcomes.most_common())
