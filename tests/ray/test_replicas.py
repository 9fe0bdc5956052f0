"""Replicas are replaced when their engines are lost, and more of them start under load."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from benchmarks.load.images import Known
from tests.ray.cluster import FOLDER, Deployed, replicas, wait_until
from tests.ray.load import Load

serve = pytest.importorskip("ray.serve", reason="Ray is not installed; `make test-ray` runs these tests")

pytestmark = pytest.mark.anyio

# Requests before and after a change.
REQUESTS = 200

# Runs an application under a name, and returns its handle.
Run = Callable[[Any, str], Any]


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The variants of the deployment."""
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("tests.ray.variants")


@pytest.fixture
def run(deployed: Deployed) -> Iterator[Run]:  # noqa: ARG001 (starts the proxy, on a free port)
    """Run applications, and end them after the test."""
    names = set[str]()

    def run(application: Any, name: str) -> Any:
        names.add(name)
        return serve.run(application, name=name, route_prefix=f"/{name}")

    yield run
    for name in names:
        serve.delete(name)


def test_a_replica_without_engines_is_replaced(variants: ModuleType, run: Run) -> None:
    """Ray's health check fails as /health/live does, and Ray replaces the replica."""
    handle = run(variants.fragile(), "fragile")
    before = replicas("fragile")

    handle.lose_engines.remote().result()
    wait_until(lambda: len(replicas("fragile")) == 1 and not replicas("fragile") & before)


async def test_replicas_follow_the_load(variants: ModuleType, run: Run, digits: Sequence[Known]) -> None:
    """Ray starts a second replica while more requests are in the first than the target."""
    handle = run(variants.growing(), "growing")

    async def ask(image: Known) -> str:
        return str(await handle.classify.remote(image.data))

    async with Load(ask, digits):
        await asyncio.to_thread(wait_until, lambda: len(replicas("growing")) == 2)


def test_the_reason_of_a_failed_start_is_in_the_status(variants: ModuleType, run: Run) -> None:
    """`serve status` shows the sentence of the error with which a replica did not start."""
    with pytest.raises(RuntimeError, match="failed"):
        run(variants.without_bundle(), "broken")

    (deployment,) = serve.status().applications["broken"].deployments.values()
    assert "no bundle at /nowhere" in deployment.message


async def test_a_replica_ends_without_a_failure(variants: ModuleType, run: Run, digits: Sequence[Known]) -> None:
    """A replica that Ray ends under load answers its requests first."""
    handle = run(variants.resized(2), "resized")

    async def ask(image: Known) -> str:
        result = await handle.classify.remote(image.data)
        return "right" if image.matches([vars(each) for each in result.predictions]) else "wrong"

    async with Load(ask, digits) as load:
        await load.requests(REQUESTS)
        await asyncio.to_thread(run, variants.resized(1), "resized")
        await asyncio.to_thread(wait_until, lambda: len(replicas("resized")) == 1)
        await load.requests(REQUESTS)

    assert load.outcomes.keys() == {"right"}
