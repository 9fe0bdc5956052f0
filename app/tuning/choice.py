"""The choice of candidates: all combinations of settings, ranked by their predictions, without near duplicates."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import TypeVar

from app.tuning.candidate import Candidate, Value
from app.tuning.prediction import Prediction, Predictor, Variant

T = TypeVar("T")

# A batch takes at most this share of the latency: the running batch, the own batch, and the way through HTTP.
BATCH_SHARE = 1 / 3

# Candidates that differ only in `max_batch` are near duplicates up to this ratio.
NEAR_BATCHES = 4

# Candidates that are tried beside the defaults.
MAX_CANDIDATES = 6


def candidates(
    predictor: Predictor,
    workers: Sequence[int],
    *,
    allow_fast_decode: bool,
    count: int = MAX_CANDIDATES,
    rate: float | None = None,
) -> list[Prediction]:
    """Return the most promising candidates, the best first, and without near duplicates.

    `workers` are the numbers of HTTP workers to try. With a rate, the best one is the cheapest that reaches it,
    otherwise the one with the highest rate.
    """

    def rank(each: Prediction) -> tuple[float, ...]:
        is_late, settings = each.latency > predictor.objective.seconds, len(each.candidate.settings)
        if rate is None:
            return is_late, -each.rate, each.cpu_seconds, settings
        return is_late or each.rate < rate, each.cpu_seconds, settings

    found = {
        (each := predictor.predict(variant)).candidate: each
        for variant in _variants(predictor, workers, allow_fast_decode=allow_fast_decode)
    }
    found.pop(Candidate(), None)
    return _chosen(sorted(found.values(), key=rank), count)


def _variants(predictor: Predictor, workers: Sequence[int], *, allow_fast_decode: bool) -> Iterator[Variant]:
    decodes = _free(predictor, "decode", [None, *(["fast"] if allow_fast_decode else [])])
    counts = _free(predictor, "http_workers", [None, *(n for n in workers if n != predictor.http.default_workers)])
    for instances, threads in _engines(predictor):
        batches = _free(predictor, "max_batch", [*_batches(predictor, instances, threads)])
        for batch, count, decode in product(batches, counts, decodes):
            yield Variant(instances, threads, batch, count, decode)


def _free(predictor: Predictor, name: str, values: list[T]) -> list[T | None]:
    """Return the values to try for a setting: only the user's, if it is set."""
    return [None] if predictor.is_set(name) else [*values]


def _engines(predictor: Predictor) -> Iterator[tuple[int | None, int | None]]:
    """Yield the instances and threads of the defaults, and others that ask for no more CPUs than there are."""
    default = predictor.costs.engines[None].threads
    cpus = max(math.ceil(predictor.costs.cpus), 1)
    usual = predictor.instances(None)
    counts = {1, 2} if predictor.costs.on_gpu else {1, 2, max(cpus // 2, 1), cpus}
    for instances, threads in product(
        [usual] if predictor.is_set("instances_per_device") else sorted(counts), predictor.costs.engines
    ):
        is_usual = instances == usual and threads in (None, default)
        if not predictor.costs.on_gpu and not is_usual and (threads or default) * instances > cpus:
            continue
        # The default divides the CPUs among the instances, or is 1 for a small network. So the number is named.
        given_threads = None if is_usual or predictor.share_all_cpus(instances) else threads or default
        yield (
            None if instances == usual else instances,
            None if predictor.costs.on_gpu or predictor.is_set("threads") else given_threads,
        )


def _batches(predictor: Predictor, instances: int | None, threads: int | None) -> Iterator[int | None]:
    """Yield sizes with a batch that takes at most a share of the latency, and None for the largest that pays."""
    engine = predictor.engine(Variant(instances, threads))
    limit = BATCH_SHARE * predictor.objective.seconds
    for size, cost in engine.batches.items():
        if size == 1 or cost.seconds <= limit:
            yield None if size == engine.largest else size
    if engine.batches[engine.largest].seconds > limit:
        yield None


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
