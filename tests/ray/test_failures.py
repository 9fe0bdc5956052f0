"""A replica is killed under load. Ray replaces it, and clients get no wrong answer."""

import asyncio
import json
import logging
import os
import signal
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus

import pytest

from app.load.client_pool import Broken, ClientPool, request
from benchmarks.load.images import Known
from tests.ray.cluster import Deployed, replicas, wait_until
from tests.ray.load import CLIENTS, Ask, Load

ray = pytest.importorskip("ray", reason="Ray is not installed; `make test-ray` runs these tests")

pytestmark = pytest.mark.anyio

log = logging.getLogger(__name__)

# Requests before the kill, and after the replacement.
REQUESTS = 500


async def outcomes_of_a_kill(ask: Ask, digits: Sequence[Known]) -> Counter[str]:
    """Return the outcomes of all requests of a load, during which one of two replicas is killed and replaced."""
    async with Load(ask, digits) as load:
        await load.requests(REQUESTS)
        before = replicas()
        os.kill(min(before), signal.SIGKILL)
        await asyncio.to_thread(wait_until, lambda: len(replicas() & before) == 1 and len(replicas()) == len(before))
        await load.requests(REQUESTS)
    log.info("%s", load.outcomes)  # shown with the option --log-level=INFO -rP
    return load.outcomes


async def test_a_kill_under_http_load_gives_no_wrong_answer(deployed: Deployed, digits: Sequence[Known]) -> None:
    """If a replica is killed, at most the requests in it fail over HTTP, and all other answers are right."""
    pool = ClientPool(deployed.address)

    async def ask(image: Known) -> str:
        try:
            response = await pool.send(request("/classify", image.data))
        except Broken:
            return "broken"
        if response.status != HTTPStatus.OK:
            return str(response.status)
        return "right" if image.matches(json.loads(response.body)["predictions"]) else "wrong"

    outcomes = await outcomes_of_a_kill(ask, digits)
    pool.close()

    assert outcomes["wrong"] == 0
    assert outcomes.total() - outcomes["right"] <= CLIENTS


async def test_a_kill_under_load_of_handles_gives_no_wrong_answer(deployed: Deployed, digits: Sequence[Known]) -> None:
    """If a replica is killed, at most the calls in it fail, and all other answers are right."""

    async def ask(image: Known) -> str:
        try:
            result = await deployed.handle.classify.remote(image.data)
        except ray.exceptions.RayError as error:
            return type(error).__name__
        return "right" if image.matches([vars(each) for each in result.predictions]) else "wrong"

    outcomes = await outcomes_of_a_kill(ask, digits)

    assert outcomes["wrong"] == 0
    assert outcomes.total() - outcomes["right"] <= CLIENTS
