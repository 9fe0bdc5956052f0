"""The choice of candidates, from costs that are given."""

from app.settings import Settings
from app.tuning.choice import NEAR_BATCHES, candidates
from app.tuning.costs import Costs, EngineCosts
from app.tuning.objective import Objective
from app.tuning.prediction import HttpCosts, Predictor
from tests.tuning.given_costs import HTTP, ONE, PHOTOS, SMALL, TWO, predictor


def test_a_tight_latency_asks_for_small_batches() -> None:
    """No size of a batch is tried that takes more than a third of the latency. Unset, warm-up chooses the size."""
    found = candidates(predictor(seconds=0.05), [0], allow_fast_decode=False)

    assert found[0].latency <= 0.05
    every = candidates(predictor(seconds=0.05), [0], allow_fast_decode=False, count=100)
    sizes = {each.candidate.values.get("max_batch") for each in every}
    assert sizes == {2, None}


def test_candidates_differ() -> None:
    """No two candidates are equal in all but nearly the same batch, and none is the defaults."""
    found = candidates(predictor(seconds=1), [0, 1, 2], allow_fast_decode=False)

    for index, one in enumerate(found):
        assert one.candidate.settings
        for other in found[:index]:
            small, large = sorted((one.batch, other.batch))
            assert one.shape != other.shape or large >= NEAR_BATCHES * small


def test_every_number_of_http_workers_is_tried() -> None:
    """Predictions of processes that share CPUs are rough, so each number has a candidate."""
    http = HttpCosts(service=0.02, generator=0, default_workers=0)  # two workers promise the most, with any engine
    found = candidates(predictor(seconds=1, http=http), [0, 1, 2], allow_fast_decode=False, count=3)

    assert {each.candidate.values.get("http_workers") for each in found} == {None, 1, 2}


def test_a_few_candidates_are_enough() -> None:
    """The number of candidates is bounded."""
    assert len(candidates(predictor(), [0, 1, 2], allow_fast_decode=False, count=3)) == 3


def test_engines_ask_for_no_more_cpus_than_there_are() -> None:
    """Two engines of two threads on two CPUs are no candidate."""
    found = candidates(predictor(seconds=1), [0, 1, 2], allow_fast_decode=False, count=100)

    values = [each.candidate.values for each in found]
    instances = [int(each.get("instances_per_device", 1)) for each in values]
    threads = [int(each.get("threads", 2 // count)) for each, count in zip(values, instances, strict=True)]
    assert max(one * two for one, two in zip(instances, threads, strict=True)) == 2


def test_settings_of_the_user_are_not_tuned() -> None:
    """No candidate changes a setting that the user gives."""
    some = predictor(PHOTOS, max_batch=8, threads=1, http_workers=1, max_queue_size=100)
    all_of_them = predictor(max_batch=8, threads=1, http_workers=1, max_queue_size=100, instances_per_device=1)

    found = candidates(some, [0, 1, 2], allow_fast_decode=True, count=100)

    assert {name for each in found for name in each.candidate.values} == {"instances_per_device", "decode"}
    assert candidates(all_of_them, [0, 1, 2], allow_fast_decode=False) == []


def test_more_threads_than_cpus_are_left_to_the_user() -> None:
    """The number of threads is given, and other settings are tried with it."""
    four = EngineCosts("cpu", 4, TWO.batches)
    costs = Costs(2.0, {None: four}, SMALL)
    found = candidates(Predictor(costs, HTTP, Objective(99, 0.1), Settings(threads=4)), [0, 1], allow_fast_decode=False)

    assert {name for each in found for name in each.candidate.values} == {"max_batch", "http_workers", "max_queue_size"}


def test_given_instances_are_the_only_ones() -> None:
    """Two instances are given, which have one thread each by default. Two threads each are too many for two CPUs."""
    costs = Costs(2.0, {None: ONE, 2: TWO}, SMALL)
    found = candidates(
        Predictor(costs, HTTP, Objective(99, 1), Settings(instances_per_device=2)),
        [0, 1],
        allow_fast_decode=False,
        count=100,
    )

    assert {name for each in found for name in each.candidate.values} == {"max_batch", "http_workers", "max_queue_size"}


def test_fast_decoding_needs_permission() -> None:
    """It changes pixels, so it is tried only if that is allowed. Then it is first for photos."""
    without = candidates(predictor(PHOTOS, seconds=1), [0], allow_fast_decode=False, count=100)
    allowed = candidates(predictor(PHOTOS, seconds=1), [0], allow_fast_decode=True)

    assert not any("decode" in each.candidate.values for each in without)
    assert allowed[0].candidate.values["decode"] == "fast"


def test_for_a_rate_the_cheapest_is_first() -> None:
    """Two threads reach a higher rate, but at 20 requests/s one thread suffices and takes less CPU time."""
    one_engine = predictor(seconds=1, instances_per_device=1)

    fastest, *_ = candidates(one_engine, [0], allow_fast_decode=False)
    cheapest, *_ = candidates(one_engine, [0], allow_fast_decode=False, rate=20)

    assert "threads" not in fastest.candidate.values
    assert cheapest.candidate.values["threads"] == 1
