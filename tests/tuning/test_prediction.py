"""The prediction of candidates, from costs that are given."""

from dataclasses import replace

import pytest

from app.settings import Settings
from app.tuning.costs import Cost, Costs, DecodeCosts, EngineCosts
from app.tuning.objective import Objective
from app.tuning.prediction import NEAR_BATCHES, HttpCosts, Predictor, Variant

# A network that takes 8 CPU ms for an image, and slightly less in larger batches.
ONE = EngineCosts("cpu", 1, {size: Cost(0.008 * size**0.95, 0.008 * size**0.95) for size in (1, 2, 4, 8, 16)})
TWO = EngineCosts("cpu", 2, {size: Cost(0.005 * size**0.95, 0.010 * size**0.95) for size in (1, 2, 4, 8, 16)})
SMALL = {"exact": DecodeCosts(Cost(0.0001, 0.0001), 20000.0)}
PHOTOS = {
    "exact": DecodeCosts(Cost(0.020, 0.020), 100.0),
    "fast": DecodeCosts(Cost(0.005, 0.005), 400.0),
}
HTTP = HttpCosts(service=0.0004, generator=0.0001, default_workers=0)


def predictor(
    decode: dict[str, DecodeCosts] = SMALL, seconds: float = 0.1, http: HttpCosts = HTTP, **settings: object
) -> Predictor:
    """Return the predictor of a machine with two CPUs."""
    costs = Costs(2.0, {None: TWO, 1: ONE}, decode)
    return Predictor(costs, http, Objective(99, seconds), Settings.model_validate(settings))


def test_the_slowest_part_bounds_the_rate() -> None:
    """A large network is bound by its engine, photos by the CPUs, and a request without either by HTTP."""
    tiny = EngineCosts("cpu", 1, {1: Cost(1e-6, 1e-6)})
    costs = Costs(2.0, {None: tiny}, SMALL)
    empty = Predictor(costs, HTTP, Objective(99, 0.1), Settings())

    assert predictor().predict(Variant(threads=1, max_batch=1)).bound == "engine"
    assert predictor(PHOTOS).predict(Variant()).bound == "CPU"
    assert empty.predict(Variant()).bound == "HTTP"


def test_a_long_latency_allows_the_capacity() -> None:
    """One engine of one thread takes 8 ms for an image."""
    assert predictor(seconds=100).predict(Variant(threads=1, max_batch=1)).rate == pytest.approx(125, rel=0.02)


def test_a_tight_latency_allows_a_part_of_the_capacity() -> None:
    """An image that takes 10 ms waits for at most two others. Simulated queues hold 30 and 112 requests/s."""
    slow = EngineCosts("cpu", 1, {1: Cost(0.01, 0.01)})
    tight = Predictor(Costs(4.0, {None: slow}, SMALL), HTTP, Objective(99, 0.03), Settings())

    one, two = (tight.predict(Variant(instances=count)).rate for count in (1, 2))

    assert one == pytest.approx(30, rel=0.5)
    assert two == pytest.approx(112, rel=0.2)


def test_each_instance_runs_its_own_batches() -> None:
    """Two engines of one thread compute nearly twice as much as one, as far as the CPUs allow."""
    one, two = (predictor(seconds=100).predict(Variant(instances=count, threads=1)).rate for count in (1, 2))

    assert 1.8 < two / one <= 2


def test_http_workers_share_the_work_of_http() -> None:
    """With HTTP as the bound, the rate grows with a second worker, until the CPUs are the bound."""
    http = HttpCosts(service=0.02, generator=0, default_workers=0)
    one, two = (predictor(http=http).predict(Variant(http_workers=count)) for count in (1, 2))

    assert one.bound == "HTTP"
    assert two.bound == "CPU"
    assert two.rate > one.rate


def test_a_latency_holds_the_running_batch_and_the_own_batch() -> None:
    """Larger batches take longer, and an image waits for two of them."""
    small, large = (predictor().predict(Variant(threads=1, max_batch=size)).latency for size in (1, 16))

    assert small > 2 * 0.008
    assert large > 2 * ONE.batches[16].seconds


def test_a_tight_latency_asks_for_small_batches() -> None:
    """No size of a batch is tried that takes more than a third of the latency. Unset, warm-up chooses the size."""
    found = predictor(seconds=0.05).candidates([0], allow_fast_decode=False)

    assert found[0].latency <= 0.05
    every = predictor(seconds=0.05).candidates([0], allow_fast_decode=False, count=100)
    sizes = {each.candidate.values.get("max_batch") for each in every}
    assert sizes == {2, None}


def test_candidates_differ() -> None:
    """No two candidates are equal in all but nearly the same batch, and none is the defaults."""
    found = predictor(seconds=1).candidates([0, 1, 2], allow_fast_decode=False)

    for index, one in enumerate(found):
        assert one.candidate.settings
        for other in found[:index]:
            small, large = sorted((one.batch, other.batch))
            assert one.shape != other.shape or large >= NEAR_BATCHES * small


def test_every_number_of_http_workers_is_tried() -> None:
    """Predictions of processes that share CPUs are rough, so each number has a candidate."""
    http = HttpCosts(service=0.02, generator=0, default_workers=0)  # two workers promise the most, with any engine
    found = predictor(seconds=1, http=http).candidates([0, 1, 2], allow_fast_decode=False, count=3)

    assert {each.candidate.values.get("http_workers") for each in found} == {None, 1, 2}


def test_a_few_candidates_are_enough() -> None:
    """The number of candidates is bounded."""
    assert len(predictor().candidates([0, 1, 2], allow_fast_decode=False, count=3)) == 3


def test_engines_ask_for_no_more_cpus_than_there_are() -> None:
    """Two engines of two threads on two CPUs are no candidate."""
    found = predictor(seconds=1).candidates([0, 1, 2], allow_fast_decode=False, count=100)

    values = [each.candidate.values for each in found]
    instances = [int(each.get("instances_per_device", 1)) for each in values]
    threads = [int(each.get("threads", 2 // count)) for each, count in zip(values, instances, strict=True)]
    assert max(one * two for one, two in zip(instances, threads, strict=True)) == 2


def test_settings_of_the_user_are_not_tuned() -> None:
    """No candidate changes a setting that the user gives."""
    some = predictor(PHOTOS, max_batch=8, threads=1, http_workers=1, max_queue_size=100)
    all_of_them = predictor(max_batch=8, threads=1, http_workers=1, max_queue_size=100, instances_per_device=1)

    found = some.candidates([0, 1, 2], allow_fast_decode=True, count=100)

    assert {name for each in found for name in each.candidate.values} == {"instances_per_device", "decode"}
    assert all_of_them.candidates([0, 1, 2], allow_fast_decode=False) == []


def test_more_threads_than_cpus_are_left_to_the_user() -> None:
    """The number of threads is given, and other settings are tried with it."""
    four = EngineCosts("cpu", 4, TWO.batches)
    costs = Costs(2.0, {None: four}, SMALL)
    found = Predictor(costs, HTTP, Objective(99, 0.1), Settings(threads=4)).candidates([0, 1], allow_fast_decode=False)

    assert {name for each in found for name in each.candidate.values} == {"max_batch", "http_workers", "max_queue_size"}


def test_given_instances_are_the_only_ones() -> None:
    """Two instances are given, which have one thread each by default. Two threads each are too many for two CPUs."""
    costs = Costs(2.0, {None: ONE, 2: TWO}, SMALL)
    found = Predictor(costs, HTTP, Objective(99, 1), Settings(instances_per_device=2)).candidates(
        [0, 1], allow_fast_decode=False, count=100
    )

    assert {name for each in found for name in each.candidate.values} == {"max_batch", "http_workers", "max_queue_size"}


def test_every_device_has_engines() -> None:
    """Two GPUs run twice as many batches as one."""
    one = EngineCosts("cuda:0", 1, {1: Cost(0.01, 0.0001)})
    rates = [
        Predictor(Costs(8.0, {None: engines}, SMALL), HTTP, Objective(99, 100), Settings()).predict(Variant()).rate
        for engines in (one, replace(one, devices=2))
    ]

    assert rates == pytest.approx([200, 400], rel=0.02)


def test_fast_decoding_needs_permission() -> None:
    """It changes pixels, so it is tried only if that is allowed. Then it is first for photos."""
    without = predictor(PHOTOS, seconds=1).candidates([0], allow_fast_decode=False, count=100)
    allowed = predictor(PHOTOS, seconds=1).candidates([0], allow_fast_decode=True)

    assert not any("decode" in each.candidate.values for each in without)
    assert allowed[0].candidate.values["decode"] == "fast"


def test_the_queue_is_as_long_as_the_latency() -> None:
    """As many images wait as are computed within 400 ms; shorter queues would refuse whole requests of clients."""
    long = predictor(seconds=0.4).predict(Variant(max_batch=8))
    short = predictor(seconds=0.05).predict(Variant(max_batch=1))

    rows = int(long.candidate.values["max_queue_size"])
    assert 64 < rows <= 0.4 * 8 / TWO.batches[8].seconds
    assert short.candidate.values["max_queue_size"] == Settings().max_client_batch_size


def test_the_queue_stays_at_its_default_if_that_is_short_enough() -> None:
    """A long latency allows more images than the default does."""
    assert "max_queue_size" not in predictor(seconds=10).predict(Variant(max_batch=8)).candidate.values


def test_the_queue_alone_is_no_candidate() -> None:
    """A candidate differs from the defaults in a setting with a gain that can be measured."""
    assert predictor().predict(Variant()).candidate.settings == ()


def test_for_a_rate_the_cheapest_is_first() -> None:
    """Two threads reach a higher rate, but at 20 requests/s one thread suffices and takes less CPU time."""
    one_engine = predictor(seconds=1, instances_per_device=1)

    fastest, *_ = one_engine.candidates([0], allow_fast_decode=False)
    cheapest, *_ = one_engine.candidates([0], allow_fast_decode=False, rate=20)

    assert "threads" not in fastest.candidate.values
    assert cheapest.candidate.values["threads"] == 1
