"""The run of the tuner: costs, prediction, trials, confirmation. Knows no command and writes no file."""

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from app.bundle.load import Bundle, load_bundle
from app.errors import StartError
from app.settings import Settings
from app.system.cpus import available_cpus, granted_cpus
from app.tuning.candidate import DEFAULTS, Candidate
from app.tuning.choice import MAX_CANDIDATES, candidates
from app.tuning.confirmation import Attempt, Confirmation, Score, Simplification, confirm, cpu_time, latency, simplify
from app.tuning.costs import COSTS_THREAD, CostMeter, Costs, DecodeCosts, EngineCosts
from app.tuning.fleet import Launch, ProcessFleet, open_fleet
from app.tuning.groups import alone_seconds, try_all
from app.tuning.measurement import Measurement
from app.tuning.objective import Objective
from app.tuning.prediction import HttpCosts, Prediction, Predictor, Variant
from app.tuning.run import Entry, Run
from app.tuning.samples import Samples
from app.tuning.schedule import COSTS_END, TRIALS_END, Schedule
from app.tuning.service_process import variables_of
from app.tuning.trials import Trial

# The shares of the time for the costs in which engines and decoding are measured.
ENGINES_SHARE, DECODE_SHARE = 0.5, 0.25

# Clients and seconds for the cost of a request without an image.
HTTP_CLIENTS, HTTP_SECONDS = 8, 0.7

# A single client sends few requests, so one stall of the machine can be a few percent of them.
IN_TIME_BUT_FOR_STALLS = 0.9

# Candidates that can be confirmed. The best one of the trials can be so by luck.
FINALISTS = 2

# The rates of the confirmation, as shares of the highest rate of the trials. That rate is the best of several windows,
# so an independent run seldom reaches it.
CONFIRMED_SHARES = (0.95, 0.88, 0.8, 0.72, 0.64, 0.56, 0.48, 0.4, 0.3)


@dataclass(frozen=True)
class Request:
    """The settings, images and objective of a run."""

    settings: Settings  # those that the user has given are not tuned
    samples: Samples
    objective: Objective
    rate: float | None  # requests per second, for the cheapest settings; None for the highest rate
    workers: Sequence[int]  # numbers of HTTP workers to try
    default_workers: int  # HTTP workers of the defaults
    allow_fast_decode: bool = False


@dataclass
class Result:
    """Everything that was found."""

    request: Request
    bundle: str  # the name of the model
    costs: Costs
    seconds: float  # that the run took
    trials: list[Trial] = field(default_factory=list)  # the defaults first
    confirmed: Confirmation | None = None  # None: nothing holds the latency
    simplified: Simplification | None = None  # None: the defaults are as good
    failed: list[str] = field(default_factory=list)  # candidates that failed, with the reason
    history: list[Entry] = field(default_factory=list)  # all windows of open loops

    @property
    def candidate(self) -> Candidate:
        """The settings of the answer."""
        return self.simplified.candidate if self.simplified else DEFAULTS

    @property
    def windows(self) -> list[Measurement]:
        """The windows of the answer at its rate, also those of the simplification."""
        later = self.simplified.windows if self.simplified else []
        return [*self.confirmed.windows, *later] if self.confirmed else []

    @property
    def is_impossible(self) -> bool:
        """Return whether each candidate is late with one request at a time, and more often than a stall explains."""
        return all(
            not trial.alone.holds and trial.alone.share_in_time < IN_TIME_BUT_FOR_STALLS for trial in self.trials
        )

    @property
    def noise(self) -> float:
        """The mean share of the CPUs that other programs took, also in the windows that were measured again."""
        windows = [*(trial.alone for trial in self.trials), *(entry.window for entry in self.history)]
        return sum(window.noise for window in windows) / len(windows)

    @property
    def alone(self) -> Measurement:
        """The best single client of all candidates."""
        return min((trial.alone for trial in self.trials), key=lambda alone: alone.latency_ms)


async def tune(request: Request, schedule: Schedule, report: Callable[[str], None]) -> Result:
    """Find the settings that hold the objective, within the time of the schedule.

    Raises:
        StartError: the bundle, a device or the service cannot be used with the user's settings, or there is no time.
        ServiceEnded: the service with the defaults ended.
    """
    bundle = load_bundle(request.settings.bundle)
    report(f"measuring the network and {len(request.samples.images)} images")
    costs = await _measured_costs(request, bundle, schedule)
    if schedule.left_until(TRIALS_END) <= 0:
        raise StartError(f"measuring the network alone took {schedule.elapsed:.0f} s; give more --minutes")
    keys = request.settings.api_keys
    launch = Launch(
        variables_of(request.settings),
        keys[0].get_secret_value() if keys else None,
        request.samples.images,
        request.objective,
        costs.on_gpu,
        request.settings.max_connections,
        schedule.left,
    )
    result = Result(request, bundle.manifest.name, costs, 0)
    async with open_fleet(launch) as fleet:
        run = Run(fleet, schedule, report)
        await _search(result, fleet, run)
        report("stopping the processes")
    result.failed = [f"{candidate}: {reason}" for candidate, reason in run.failed.items()]
    result.history, result.seconds = run.history, schedule.elapsed
    return result


async def _measured_costs(request: Request, bundle: Bundle, schedule: Schedule) -> Costs:
    """Measure the costs in a thread, which ends after the step that it is in when this task is cancelled."""
    is_cancelled = threading.Event()
    seconds = COSTS_END * schedule.seconds
    meter = CostMeter(bundle, request.settings, is_cancelled.is_set)
    modes = ["exact", "fast"] if request.allow_fast_decode else ["exact"]
    if "decode" in request.settings.model_fields_set:
        modes = [request.settings.decode]

    def measure() -> tuple[dict[int | None, EngineCosts], dict[str, DecodeCosts]]:
        engines = meter.engines([None], seconds)
        default, cpus = engines[None], available_cpus()
        if default.device == "cpu" and "threads" not in request.settings.model_fields_set:
            others = {1, max(cpus // 2, 1), cpus} - {default.threads}
            engines |= meter.engines(sorted(others), ENGINES_SHARE * seconds)
        return engines, meter.decode(request.samples.images, modes, cpus, DECODE_SHARE * seconds)

    # Not the executor of the loop: the end of the loop waits for its threads.
    pool = ThreadPoolExecutor(1, thread_name_prefix=COSTS_THREAD)
    try:
        engines, decode = await asyncio.get_running_loop().run_in_executor(pool, measure)
    finally:
        is_cancelled.set()
        pool.shutdown(wait=False)
    return Costs(granted_cpus(), engines, decode)


async def _search(result: Result, fleet: ProcessFleet, run: Run) -> None:
    request, schedule = result.request, run.schedule
    run.report("starting the defaults")
    predictor, alone = await _predictor(result, fleet)
    fits = schedule.candidates(fleet.start_seconds, MAX_CANDIDATES)
    predictions = candidates(
        predictor, request.workers, allow_fast_decode=request.allow_fast_decode, count=fits, rate=request.rate
    )
    await find_answer(result, Trial(predictor.predict(Variant()), alone), predictions, run)


async def find_answer(result: Result, defaults: Trial, predictions: Sequence[Prediction], run: Run) -> None:
    """Try the defaults and these candidates, then confirm and simplify the best one."""
    rate = result.request.rate
    result.trials = await try_all(defaults, predictions, rate, run)
    # The defaults are the first trial, so they win against equal ones.
    if rate is not None:
        holding = [trial for trial in result.trials if trial.holds_always]
        await _confirm(result, sorted(holding, key=lambda trial: trial.cpu_ms), cpu_time, run)
    else:
        holding = [trial for trial in result.trials if trial.held]
        await _confirm(result, sorted(holding, key=lambda trial: -trial.held), latency, run)


async def _predictor(result: Result, fleet: ProcessFleet) -> tuple[Predictor, Measurement]:
    """Start the defaults, and measure the cost of HTTP and a single client by them."""
    costs, settings = result.costs, result.request.settings
    engine, decode = costs.engines[None].batches[1], costs.decode[settings.decode].image
    meter = await fleet.meter(DEFAULTS)
    alone = await meter.alone(alone_seconds(2 * engine.seconds + decode.seconds))
    http = await meter.http(HTTP_CLIENTS, HTTP_SECONDS)
    # A request without an image has no content and no predictions: it is the least that HTTP can cost.
    rest = alone.cpu_ms / 1e3 - engine.cpu_seconds - decode.cpu_seconds
    service = max(http.cpu_ms / 1e3, 0 if math.isnan(rest) else rest)
    http_costs = HttpCosts(service, http.generator_ms / 1e3, result.request.default_workers)
    return Predictor(costs, http_costs, result.request.objective, settings), alone


async def _confirm(result: Result, ranked: Sequence[Trial], score: Score, run: Run) -> None:
    """Confirm one of the first of these candidates, or of the next ones if a service fails meanwhile. Simplify it."""
    objective, ranked = result.request.objective, [trial for trial in ranked if trial.candidate not in run.failed]
    for first in range(0, len(ranked), FINALISTS):
        finalists = ranked[first : first + FINALISTS]
        result.confirmed = await confirm(_attempts(finalists, result.request.rate), objective, score, run)
        if result.confirmed or not any(trial.candidate in run.failed for trial in finalists):
            break
    if result.confirmed and result.confirmed.candidate != DEFAULTS:
        result.simplified = await simplify(result.confirmed, objective, score, run)


def _attempts(finalists: Sequence[Trial], rate: float | None) -> Sequence[Attempt]:
    """Return the attempts to confirm these candidates: at the given rate, or at lower and lower ones."""
    if rate is not None:
        return [Attempt(trial.candidate, rate) for trial in finalists]
    found = [Attempt(trial.candidate, share * trial.held) for trial in finalists for share in CONFIRMED_SHARES]
    return sorted(found, key=lambda attempt: -attempt.rate)
