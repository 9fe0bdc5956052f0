"""Tests of `app/processes/supervisor.py` without HTTP workers."""

import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.batching.batcher import Batcher
from app.observability.metrics import Metrics
from app.processes.supervisor import Supervisor
from app.settings import Settings

pytestmark = pytest.mark.anyio


async def test_stop_before_start_closes_the_listeners() -> None:
    """A supervisor that was never started stops at once, closes its listeners and is not ready."""
    listener = socket.create_server(("127.0.0.1", 0))
    batcher = Batcher([lambda images, _: images], max_batch=1, capacity=1)
    batcher.start()
    config = cast("Any", SimpleNamespace(settings=Settings(device="cpu")))
    supervisor = Supervisor(config, [listener], batcher, cast("Any", None), Metrics("batcher"))
    was_ready = supervisor.is_ready

    await supervisor.stop()
    await batcher.drain()

    assert was_ready
    assert not supervisor.is_ready
    assert listener.fileno() == -1
