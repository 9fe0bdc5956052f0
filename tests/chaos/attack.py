"""A crowd that behaves as badly as it can, against a real `swin-serve` whose engine fails: `python -m tests.chaos`.

What it must not be able to do stands in `Attack.violations`: a sentence for each claim that does not hold.
"""

import argparse
import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Self

import uvloop

from benchmarks.load.clients import ConnectionPool, closed_loop, request
from benchmarks.load.images import learn, noise, photo
from benchmarks.load.served import Accounts, Served, Usage, metrics
from tests.chaos import broken_engine
from tests.chaos.scenarios import BEHAVIOURS, BUSY, FAILED, MANY, ONE, PATIENCE, PROMPT, Behavior, Crowd

MAX_BATCH = 8
OPTIONS = [
    *("--max-batch", str(MAX_BATCH)),
    *("--max-queue-size", "64", "--max-decode-queue-size", "24", "--max-client-batch-size", "16"),
    *("--batch-timeout", "5", "--header-timeout", f"{PATIENCE:g}", "--body-timeout", f"{PATIENCE:g}"),
]
"""Queues so short that they fill now and then, and little patience with engines that hang and callers that dawdle. But
it is seconds: on a busy machine, an engine that works or a client that is in time can wait a second for a CPU."""

SETTLING_SECONDS = 60
"""The longest wait for the service to be ready, to have let go of everything, and to end: it finds a hang."""

STALLED_SECONDS = 200
"""The longest time for one act beyond its own seconds: it finds a hang, too."""

PLAYERS = 16
MEASURED_SECONDS = 1.5
SHARE = 0.8
"""What the machine can do now is measured with so many clients at once, for so long. The attack takes this share."""

BETWEEN_FAILURES = 0.5
SIDES = [(320, 240), (500, 375), (900, 1200), (2000, 1500)]

GAUGES = ("swin_queue_depth", "swin_decode_in_progress", "swin_uploaded_bytes")
"""Zero when nobody calls."""

GROWTH = 0.1
"""Of memory, from the end of the warm-up to the end."""


@dataclass(frozen=True)
class Report:
    """What came of it."""

    outcomes: dict[str, Counter[str]]  # by behavior
    injected: Counter[str]  # failures of the engine
    abandoned: dict[str, float]  # images whose caller left, by stage
    rate: float  # callers a second
    before: Usage
    after: Usage
    violations: list[str]


@dataclass(frozen=True)
class Rest:
    """The service when nobody calls."""

    usage: Usage
    samples: dict[str, float]
    is_ready: bool


class Attack:
    """One service, and the crowd before it. At the end of the block the crowd has hung up."""

    def __init__(self, served: Served, order: Path, failures: Sequence[str], seed: int) -> None:
        self._served, self._order, self._random = served, order, Random(seed)
        self._callers, self._failures, self._turns = ConnectionPool(served.address), cycle(failures), len(failures)
        self._accounts = served.watch_requests()
        self._files, self._threads = served.usage().files, sys.maxsize  # at rest, as far as is known
        self.outcomes = {behavior.name: Counter[str]() for behavior in BEHAVIOURS}
        self.injected = Counter[str]()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._callers.close()
        await asyncio.sleep(0)  # a connection ends in the next event-loop iteration

    async def meet(self) -> Crowd:
        """A crowd that knows what each of its images comes to alone."""
        digits = await learn(self._callers, [noise(self._random) for _ in range(80)])
        photos = await learn(self._callers, [photo(*size, self._random) for size in SIDES * 2])
        return Crowd(self._callers, digits, photos, self._random)

    async def pace(self, crowd: Crowd) -> float:
        """Return how many callers a second the machine can serve now, beside whatever else it does."""
        before, began = self._seen, time.perf_counter()

        async def play() -> None:
            await self._play(self._random.choices(PROMPT, [each.weight for each in PROMPT])[0], crowd)

        await closed_loop(PLAYERS, MEASURED_SECONDS, play)
        return (self._seen - before) / (time.perf_counter() - began)

    async def act(self, crowd: Crowd, rate: float, seconds: float) -> Rest:
        """Let them all in while the engine fails now and then, and return what is left when they are gone.

        The act lasts at least so many seconds, and until each behavior and each failure has had its turn.
        """
        async with asyncio.timeout(seconds + STALLED_SECONDS):
            async with asyncio.TaskGroup() as both:
                breaking = both.create_task(self._break_engine(crowd, seconds))
                both.create_task(self._crowd_in(crowd, rate, seconds, breaking))
            return await self._rest()

    async def _crowd_in(self, crowd: Crowd, rate: float, seconds: float, breaking: asyncio.Task[None]) -> None:
        ends = time.perf_counter() + seconds
        weights = [behavior.weight for behavior in BEHAVIOURS]
        first = self._random.sample(BEHAVIOURS, len(BEHAVIOURS))
        async with asyncio.TaskGroup() as visits:
            while first or not breaking.done() or time.perf_counter() < ends:
                behavior = first.pop() if first else self._random.choices(BEHAVIOURS, weights)[0]
                visits.create_task(self._play(behavior, crowd))
                # Where this process itself is late, the crowd is not: it comes later, not all at once.
                await asyncio.sleep(self._random.expovariate(rate))

    async def _play(self, behavior: Behavior, crowd: Crowd) -> str:
        outcome = await behavior(crowd)
        self.outcomes[behavior.name][outcome] += 1
        return outcome

    @property
    def _seen(self) -> int:
        return sum(outcomes.total() for outcomes in self.outcomes.values())

    async def _break_engine(self, crowd: Crowd, seconds: float) -> None:
        """One failure after the other, each when the service has recovered from the last one and answered again.

        A slow crowd seldom fills a batch: several images at once see to it that there is one to fail.
        """
        ends, turns = time.perf_counter() + seconds * 0.8, self._turns
        while await self._becomes_ready():
            await asyncio.sleep(BETWEEN_FAILURES)
            while await self._play(ONE, crowd) != "200":  # noqa: ASYNC110 (likewise)
                await asyncio.sleep(0.05)
            if turns <= 0 and time.perf_counter() > ends:
                return
            turns -= 1
            failure = next(self._failures)
            broken_engine.give(failure, self._order)
            self.injected[failure.split()[0]] += 1
            while self._order.exists():
                await self._play(MANY, crowd)
            while await self._failed_batches() < self._to_be_noticed:  # noqa: ASYNC110 (it is another process that counts)
                await asyncio.sleep(0.05)

    async def _failed_batches(self) -> float:
        return (await metrics(self._callers))["swin_batches_failed_total"]

    @property
    def _to_be_noticed(self) -> int:
        """Failures of the engine that the service itself can notice."""
        return self.injected.total() - self.injected["cross"]

    async def _becomes_ready(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLING_SECONDS):
                while not await self._is_ready():  # noqa: ASYNC110 (it is another process that becomes ready)
                    await asyncio.sleep(0.1)
                return True
        return False

    async def _is_ready(self) -> bool:
        return (await self._callers.ask(request("/health/ready", method="GET"))).status == 200

    async def _rest(self) -> Rest:
        """Wait until the service has noticed that everybody is gone, or long enough."""
        ends, was_at_rest = time.perf_counter() + SETTLING_SECONDS, False
        while True:
            # A body can hang on a traceback until it is collected. The next answer comes after that.
            self._served.process.send_signal(signal.SIGUSR1)
            samples, is_ready = await metrics(self._callers), await self._is_ready()
            self._callers.close()
            await asyncio.sleep(0.2)
            usage = self._served.usage()
            is_idle = usage.files <= self._files and not any(samples[gauge] for gauge in GAUGES)
            is_whole = is_ready and usage.threads <= self._threads  # what was stuck has still to be given up
            # Only what is collected at rest leaves the memory that the service needs: on a busy machine, the last
            # photos go after the signal.
            if (was_at_rest and is_idle and is_whole) or time.perf_counter() > ends:
                self._threads = usage.threads
                return Rest(usage, samples, is_ready)
            was_at_rest = is_idle and is_whole

    def violations(self, crowd: Crowd, before: Rest, after: Rest) -> Iterator[str]:
        """A sentence for each claim that does not hold. Ends the service."""
        yield from self._bad_outcomes()
        yield from self._bad_rest(before, after)
        self._end()
        if self._served.process.returncode != 0:
            yield f"SIGTERM ended the service with {self._served.process.returncode}"
        yield from _bad_accounts(crowd, self._accounts, after.samples)
        yield from self._bad_log()

    def _bad_outcomes(self) -> Iterator[str]:
        for behavior in BEHAVIOURS:
            for outcome, count in self.outcomes[behavior.name].items():
                if outcome not in behavior.allowed | BUSY | {FAILED}:
                    yield f"{behavior.name}: {outcome}, {count} times"
        failed = sum(outcomes[FAILED] for outcomes in self.outcomes.values())
        most = MAX_BATCH * self.injected.total()
        if failed > most:
            yield f"{failed} requests heard of a failing engine, which failed at most {most} images"

    def _bad_rest(self, before: Rest, after: Rest) -> Iterator[str]:
        for gauge in GAUGES:
            if after.samples[gauge]:
                yield f"{gauge} is {after.samples[gauge]:.0f} when nobody calls"
        if not after.is_ready:
            yield "the service is not ready again"
        for name in ("files", "threads"):
            was, now = getattr(before.usage, name), getattr(after.usage, name)
            if now > was:
                yield f"{now} {name} when nobody calls; there were {was}"
        growth = after.usage.rss / before.usage.rss - 1
        if growth > GROWTH:
            yield f"memory grew by {growth:.0%}"

    def _end(self) -> None:
        """Terminate the service. Its log is then complete."""
        self._served.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._served.process.wait(SETTLING_SECONDS)
        self._served.stop()

    def _bad_log(self) -> Iterator[str]:
        failures, alarms = 0, Counter[str]()
        while not self._served.log.empty():
            event = self._served.log.get()
            if str(event["message"]).startswith("engine 0: "):
                failures += 1
            elif event["level"] in {"error", "critical"} or "exception" in event:
                trace = str(event.get("exception", event["message"])).splitlines()
                alarms[f"{str(event['message']).splitlines()[0]}: {trace[-1]}"] += 1
        for alarm, count in alarms.items():
            yield f"in the log, {count} times: {alarm}"
        if failures != self._to_be_noticed:
            yield f"{failures} batches failed by the log, {self._to_be_noticed} were made to"


def _bad_accounts(crowd: Crowd, accounts: Accounts, samples: dict[str, float]) -> Iterator[str]:
    """Each request is counted once, with the code that its client got, by the application or at the connection."""
    codes, refusals = _by_request(accounts.requests), _by_request(accounts.refusals)
    for identity, answer in crowd.answers.items():
        account = [*refusals.get(identity, []), *codes.get(identity, [])]
        if identity in refusals and account[1:] and account[1] >= HTTPStatus.BAD_REQUEST:
            del account[1]  # the application had begun the request that the connection then ended
        if len(account) > 1 or (answer is not None and account != [answer]):
            yield f"{identity} got {answer}, and the service's account of it is {account}"
    counted = sum(count for name, count in samples.items() if name.startswith("swin_requests_total"))
    logged = len(accounts.requests)
    if not logged - 2 <= counted <= logged:  # the last look at metrics and readiness is not in its own count
        yield f"{counted:.0f} requests by the metrics, {logged} by the log"


def _by_request(accounts: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    codes = dict[str, list[int]]()
    for identity, code in accounts:
        codes.setdefault(identity, []).append(code)
    return codes


async def attack(
    *,
    seconds: float,
    warm_up: float,
    seed: int,
    failures: Sequence[str],
    rate: float | None = None,
    options: Sequence[str] = (),
) -> Report:
    """Start a service, warm it up with the same crowd, attack it while its engine fails, and see what is left of it.

    Without a rate, each act takes a share of what the machine can do at its beginning.
    """
    with tempfile.TemporaryDirectory() as folder:
        order = Path(folder) / "order"
        served = Served(*OPTIONS, *options, module="tests.chaos.broken_engine", **{broken_engine.VARIABLE: str(order)})
        try:
            async with Attack(served, order, failures, seed) as scene:
                crowd = await scene.meet()
                before = await scene.act(crowd, rate or SHARE * await scene.pace(crowd), warm_up)
                chosen = rate or SHARE * await scene.pace(crowd)
                after = await scene.act(crowd, chosen, seconds)
                violations = list(scene.violations(crowd, before, after))
        finally:
            served.stop()
    abandoned = {name: count for name, count in after.samples.items() if name.startswith("swin_cancelled_total")}
    return Report(scene.outcomes, scene.injected, abandoned, chosen, before.usage, after.usage, violations)


def main() -> int:
    """Attack, and print what came of it. Returns 0, or 1 if a claim does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--warm-up", type=float, default=30)
    parser.add_argument("--rate", type=float, help="callers a second; default: a share of what the machine can do")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--failures", nargs="+", default=["raise", "rows", "nan", "hang 60"], help="the engine's, in turns"
    )
    parser.add_argument("--option", action="append", default=[], dest="options", help="of the service: --option=--x=y")
    report = uvloop.run(attack(**vars(parser.parse_args())))
    print(_table(report))
    for violation in report.violations:
        print(f"VIOLATED: {violation}")
    return min(len(report.violations), 1)


def _table(report: Report) -> str:
    return "\n".join(
        [
            *(f"{name:24}{outcomes.total():7}   {_shown(outcomes)}" for name, outcomes in report.outcomes.items()),
            f"callers a second: {report.rate:.0f}",
            f"engine failures: {dict(report.injected)}",
            f"images abandoned: {report.abandoned}",
            f"before: {report.before}",
            f"after:  {report.after}",
        ]
    )


def _shown(outcomes: Counter[str]) -> str:
    return ", ".join(f"{outcome} × {count}" for outcome, count in outcomes.most_common())
