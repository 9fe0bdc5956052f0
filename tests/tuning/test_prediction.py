"""The prediction of rates, from costs that are given."""

from dataclasses import replace

import pytest

from app.settings import Settings
from app.tuning.costs import Cost, Costs, EngineCosts
from app.tuning.objective import Objective
from app.tuning.prediction import HttpCosts, Predictor, Variant
from tests.tuning.given_costs import HTTP, ONE, PHOTOS, SMALL, TWO, predictor


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


def test_every_device_has_engines() -> None:
    """Two GPUs run twice as many batches as one."""
    one = EngineCosts("cuda:0", 1, {1: Cost(0.01, 0.0001)})
    rates = [
        Predictor(Costs(8.0, {None: engines}, SMALL), HTTP, Objective(99, 100), Settings()).predict(Variant()).rate
        for engines in (one, replace(one, devices=2))
    ]

    assert rates == pytest.approx([200, 400], rel=0.02)


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
