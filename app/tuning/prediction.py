"""The prediction: the rate that settings should reach within the latency, and the component that bounds it.

Pure functions of the measured costs. A prediction chooses what to try and where to begin; the answer comes from
measurements alone.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from app.settings import Settings
from app.tuning.candidate import BOUND, Candidate, Value, candidate_of
from app.tuning.costs import Costs, EngineCosts
from app.tuning.objective import Objective

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
        settings: the settings of the user.
    """

    def __init__(self, costs: Costs, http: HttpCosts, objective: Objective, settings: Settings) -> None:
        self.costs, self.http, self.objective, self.settings = costs, http, objective, settings

    def predict(self, variant: Variant) -> Prediction:
        """Return the prediction for these settings. The others have the value of the user, or the default."""
        settings = self.settings
        engine = self.engine(variant)
        batch = min(variant.max_batch or settings.max_batch, engine.largest)
        size = max(size for size in engine.batches if size <= batch)
        cost, decode = engine.batches[size], self.costs.decode[variant.decode or settings.decode]
        cpu_seconds = self.http.service + decode.image.cpu_seconds + cost.cpu_seconds / size
        capacities = self._capacities(variant, size, cpu_seconds)
        others = decode.image.seconds + self.http.service
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

    def engine(self, variant: Variant) -> EngineCosts:
        """Return the costs of an engine with these settings."""
        threads = variant.threads
        if threads is None and self.share_all_cpus(self.instances(variant.instances)):
            threads = 1
        return self.costs.engines[threads if threads in self.costs.engines else None]

    def share_all_cpus(self, instances: int) -> bool:
        """Return whether so many engines have one thread each by default, because there is one CPU for each."""
        return not self.costs.on_gpu and not self.is_set("threads") and instances >= self.costs.cpus

    def _capacities(self, variant: Variant, size: int, cpu_seconds: float) -> dict[str, float]:
        """Return the requests per second of each component at full load, with batches of this size."""
        costs, engine = self.costs, self.engine(variant)
        decode = costs.decode[variant.decode or self.settings.decode]
        workers = max(_first_set(variant.http_workers, self.settings.http_workers, self.http.default_workers), 1)
        # A process of Python runs one thread at a time: HTTP and the part of decoding that holds the lock.
        serial = self.http.service + max(1 / decode.images_per_second - decode.image.cpu_seconds / costs.cpus, 0)
        return {
            "CPU": costs.cpus / (cpu_seconds + self.http.generator),
            "engine": engine.devices * self.instances(variant.instances) * size / engine.batches[size].seconds,
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
        late = 1 - self.objective.percentile / 100
        return capacity * utilization(capacity * (self.objective.seconds - seconds), late)

    def _queue_size(self, rows_per_second: float, variant: Variant) -> int | None:
        """Return the number of rows that are computed within the latency, or None if the setting is not larger.

        It stays as large as `max_client_batch_size`, because the service would refuse whole requests of clients that
        the defaults accept, and as large as a batch.
        """
        settings = self.settings
        if self.is_set(BOUND):
            return None
        rows = math.floor(self.objective.seconds * rows_per_second)
        size = max(rows, settings.max_client_batch_size, variant.max_batch or 0)
        return size if size < settings.max_queue_size else None

    def instances(self, value: int | None) -> int:
        """Return the engines of each device: the value, that of the user, or the default."""
        return value or self.settings.instances_per_device or (2 if self.costs.on_gpu else 1)

    def is_set(self, name: str) -> bool:
        """Return whether the user has given a setting."""
        return name in self.settings.model_fields_set


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
