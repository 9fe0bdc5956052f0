"""The prediction: candidates, the rate that each should reach, and the component that bounds it.

Pure functions of the measured costs. A prediction chooses what to try and where to begin; the answer comes from
measurements alone.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, TypeVar

from app.settings import Settings
from app.tuning.candidate import BOUND, Candidate, Value, candidate_of
from app.tuning.costs import Costs, EngineCosts
from app.tuning.objective import Objective

T = TypeVar("T")

# A batch takes at most this share of the latency: the running batch, the own batch, and the way through HTTP.
BATCH_SHARE = 1 / 3

# Candidates that differ only in `max_batch` are near duplicates up to this ratio.
NEAR_BATCHES = 4

# Candidates that are tried beside the defaults.
MAX_CANDIDATES = 6


# The utilizations of a component, in steps of a percent.
UTILIZATIONS = [percent / 100 for percent in range(10, 100)]


@dataclass(frozen=True)
class HttpCosts:
    """CPU seconds of a request beside the engine and decoding, in the service and in the load generator."""

    service: float
    generator: float
    default_workers: int  # HTTP workers that the defaults start here


@dataclass(frozen=True)
class Variant:
    """The values of all tuned settings. None is the default."""

    instances: int | None = None
    threads: int | None = None
    max_batch: int | None = None
    http_workers: int | None = None
    decode: str | None = None


class Prediction(NamedTuple):
    """A candidate with the rate that it should reach, the latency there, and what bounds it."""

    candidate: Candidate
    rate: float  # requests per second
    latency: float  # seconds, for most requests
    bound: str  # engine, CPU, decoding or HTTP
    batch: int  # the largest batch
    cpu_seconds: float  # of a request, without the generator

    @property
    def shape(self) -> tuple[Value | None, ...]:
        """The settings but the size of batches and of the queue."""
        values = self.candidate.values
        return tuple(values.get(name) for name in ("instances_per_device", "threads", "http_workers", "decode"))


class Predictor:
    """Predicts the rates of candidates on this machine.

    Args:
        costs: measured costs.
        http: measured costs of HTTP.
        objective: the latency.
        settings: the settings of the user. Those that are set are not tuned.
    """

    def __init__(self, costs: Costs, http: HttpCosts, objective: Objective, settings: Settings) -> None:
        self._costs, self._http, self._objective, self._settings = costs, http, objective, settings

    def predict(self, variant: Variant) -> Prediction:
        """Return the prediction for these settings. The others have the value of the user, or the default."""
        settings = self._settings
        engine = self._engine(variant)
        batch = min(variant.max_batch or settings.max_batch, engine.largest)
        size = max(size for size in engine.batches if size <= batch)
        cost, decode = engine.batches[size], self._costs.decode[variant.decode or settings.decode]
        cpu_seconds = self._http.service + decode.image.cpu_seconds + cost.cpu_seconds / size
        capacities = self._capacities(variant, size, cpu_seconds)
        others = decode.image.seconds + self._http.service
        rates = {name: self._rate_in_time(capacity, others) for name, capacity in capacities.items()}
        # Batches are as large as the load makes them, up to the largest.
        instances = capacities["engine"] * cost.seconds / size
        rates["engine"] = max(
            each * self._rate_in_time(instances / engine.batches[each].seconds, engine.batches[each].seconds + others)
            for each in engine.batches
            if each <= size
        )
        bound = min(rates, key=lambda name: rates[name])
        candidate = self._candidate(variant, min(capacities["engine"], capacities["CPU"]))
        return Prediction(candidate, rates[bound], 2 * cost.seconds + others, bound, size, cpu_seconds)

    def _engine(self, variant: Variant) -> EngineCosts:
        threads = variant.threads
        if threads is None and self._share_all_cpus(self._instances(variant.instances)):
            threads = 1
        return self._costs.engines[threads if threads in self._costs.engines else None]

    def _share_all_cpus(self, instances: int) -> bool:
        """Return whether so many engines have one thread each by default, because there is one CPU for each."""
        return (
            not self._costs.on_gpu
            and "threads" not in self._settings.model_fields_set
            and instances >= self._costs.cpus
        )

    def _capacities(self, variant: Variant, size: int, cpu_seconds: float) -> dict[str, float]:
        """Return the requests per second of each component at full load, with batches of this size."""
        costs, engine = self._costs, self._engine(variant)
        decode = costs.decode[variant.decode or self._settings.decode]
        workers = max(_first_set(variant.http_workers, self._settings.http_workers, self._http.default_workers), 1)
        # A process of Python runs one thread at a time: HTTP and the part of decoding that holds the lock.
        serial = self._http.service + max(1 / decode.images_per_second - decode.image.cpu_seconds / costs.cpus, 0)
        return {
            "CPU": costs.cpus / (cpu_seconds + self._http.generator),
            "engine": engine.devices * self._instances(variant.instances) * size / engine.batches[size].seconds,
            "decoding": workers * decode.images_per_second,
            "HTTP": workers / serial,
        }

    def _candidate(self, variant: Variant, rows_per_second: float) -> Candidate:
        """Return the candidate with these settings, and with a queue for so many rows."""
        values = {
            "instances_per_device": variant.instances,
            "threads": variant.threads,
            "max_batch": variant.max_batch,
            "http_workers": variant.http_workers,
            "decode": variant.decode,
        }
        candidate = candidate_of(values)
        if candidate.measured:
            candidate = candidate_of(values | {BOUND: self._queue_size(rows_per_second, variant)})
        return candidate

    def _rate_in_time(self, capacity: float, seconds: float) -> float:
        """Return the highest rate of a component with which enough requests are in time.

        Args:
            capacity: requests or batches per second.
            seconds: that a request takes without waiting for this component.
        """
        late = 1 - self._objective.percentile / 100
        return capacity * utilization(capacity * (self._objective.seconds - seconds), late)

    def _queue_size(self, rows_per_second: float, variant: Variant) -> int | None:
        """Return the number of rows that are computed within the latency, or None if the setting is not larger.

        It stays as large as `max_client_batch_size`, because the service would refuse whole requests of clients that
        the defaults accept, and as large as a batch.
        """
        settings = self._settings
        if self._is_set(BOUND):
            return None
        rows = math.floor(self._objective.seconds * rows_per_second)
        size = max(rows, settings.max_client_batch_size, variant.max_batch or 0)
        return size if size < settings.max_queue_size else None

    def candidates(
        self, workers: Sequence[int], *, allow_fast_decode: bool, count: int = MAX_CANDIDATES, rate: float | None = None
    ) -> list[Prediction]:
        """Return the most promising candidates, the best first, and without near duplicates.

        `workers` are the numbers of HTTP workers to try. With a rate, the best one is the cheapest that reaches it,
        otherwise the one with the highest rate.
        """

        def rank(each: Prediction) -> tuple[float, ...]:
            is_late, settings = each.latency > self._objective.seconds, len(each.candidate.settings)
            if rate is None:
                return is_late, -each.rate, each.cpu_seconds, settings
            return is_late or each.rate < rate, each.cpu_seconds, settings

        found = {
            (each := self.predict(variant)).candidate: each for variant in self._variants(workers, allow_fast_decode)
        }
        found.pop(Candidate(), None)
        return _chosen(sorted(found.values(), key=rank), count)

    def _variants(self, workers: Sequence[int], allow_fast_decode: bool) -> Iterator[Variant]:  # noqa: FBT001 (private)
        decodes = self._free("decode", [None, *(["fast"] if allow_fast_decode else [])])
        counts = self._free("http_workers", [None, *(n for n in workers if n != self._http.default_workers)])
        for instances, threads in self._engines():
            batches = self._free("max_batch", [*self._batches(threads)])
            for batch, count, decode in product(batches, counts, decodes):
                yield Variant(instances, threads, batch, count, decode)

    def _free(self, name: str, values: list[T]) -> list[T | None]:
        """Return the values to try for a setting: only the user's, if it is set."""
        return [None] if self._is_set(name) else [*values]

    def _engines(self) -> Iterator[tuple[int | None, int | None]]:
        """Yield the instances and threads of the defaults, and others that ask for no more CPUs than there are."""
        default = self._costs.engines[None].threads
        cpus = max(math.ceil(self._costs.cpus), 1)
        usual = self._instances(None)
        counts = {1, 2} if self._costs.on_gpu else {1, 2, max(cpus // 2, 1), cpus}
        for instances, threads in product(
            [usual] if self._is_set("instances_per_device") else sorted(counts), self._costs.engines
        ):
            is_usual = instances == usual and threads in (None, default)
            if not self._costs.on_gpu and not is_usual and (threads or default) * instances > cpus:
                continue
            # The default divides the CPUs among the instances, or is 1 for a small network. So the number is named.
            given_threads = None if is_usual or self._share_all_cpus(instances) else threads or default
            yield (
                None if instances == usual else instances,
                None if self._costs.on_gpu or self._is_set("threads") else given_threads,
            )

    def _instances(self, value: int | None) -> int:
        """Return the engines of each device: the value, that of the user, or the default."""
        return value or self._settings.instances_per_device or (2 if self._costs.on_gpu else 1)

    def _is_set(self, name: str) -> bool:
        return name in self._settings.model_fields_set

    def _batches(self, threads: int | None) -> Iterator[int | None]:
        """Yield sizes with a batch that takes at most a share of the latency, and None for the largest that pays."""
        engine = self._costs.engines[threads if threads in self._costs.engines else None]
        limit = BATCH_SHARE * self._objective.seconds
        for size, cost in engine.batches.items():
            if size == 1 or cost.seconds <= limit:
                yield None if size == engine.largest else size
        if engine.batches[engine.largest].seconds > limit:
            yield None


def utilization(slack: float, late: float) -> float:
    """Return the highest utilization of a queue at which at most a share `late` of its requests wait too long.

    `slack` is the longest wait, in units of the mean time between two departures at full load.

    In heavy traffic, a wait is distributed exponentially (J. F. C. Kingman, "The single server queue in heavy traffic",
    1961). With Poisson arrivals and constant times of service, a share of rho * exp(-2 * (1 - rho) * slack) waits
    longer, where rho is the utilization.
    """
    in_time = [rho for rho in UTILIZATIONS if rho * math.exp(-2 * (1 - rho) * slack) <= late]
    return max(in_time, default=UTILIZATIONS[0])


def _first_set(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def _chosen(ranked: Sequence[Prediction], count: int) -> list[Prediction]:
    """Return `count` predictions that are no near duplicates, the best first.

    Predictions of different kinds differ by less than their error. So the best of each number of HTTP workers is
    tried, then the best of each number of engines and threads, and then the others.
    """
    firsts = [*_first_of_each(ranked, ("http_workers",)), *_first_of_each(ranked, ("instances_per_device", "threads"))]
    chosen = list[Prediction]()
    for each in (*firsts, *ranked):
        if len(chosen) < count and not any(_is_near(each, other) for other in chosen):
            chosen.append(each)
    return sorted(chosen, key=ranked.index)


def _first_of_each(ranked: Iterable[Prediction], names: Sequence[str]) -> Iterable[Prediction]:
    """Return the first prediction of each combination of values of these settings."""
    found = dict[tuple[Value | None, ...], Prediction]()
    for each in ranked:
        found.setdefault(tuple(each.candidate.values.get(name) for name in names), each)
    return found.values()


def _is_near(one: Prediction, other: Prediction) -> bool:
    small, large = sorted((one.batch, other.batch))
    return one.shape == other.shape and large < NEAR_BATCHES * small
