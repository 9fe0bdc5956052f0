"""`docker stop` under full load."""

import asyncio
from random import Random

import pytest
import uvloop

from tests.chaos.stop_load import CLIENTS, Load
from tests.container.engine import docker, running

pytestmark = pytest.mark.container

# Longer than the drain, after which Docker kills the service: the grace period of the compose file.
GRACE_SECONDS = 40


async def stop_under_load(container: str, seed: int) -> Load:
    """Stop a container while clients of all protocols send requests.

    The clients connect to the container itself. At a published port, a proxy of Docker accepts connections, also after
    the service has closed its own port.
    """
    host = docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", container)
    load = Load((host, 8000), f"{host}:8001", keep_alive=True)
    stop = ("stop", "--time", str(GRACE_SECONDS), container)
    await load.stop_amid(lambda: asyncio.to_thread(docker, *stop), Random(seed))
    return load


@pytest.mark.parametrize("http_workers", ["0", "1"])
def test_a_stop_under_load_loses_no_request(image: str, http_workers: str) -> None:
    """SIGTERM reaches the service, each accepted request gets a response, and the exit code is 0."""
    options = ["--env", f"SWIN_HTTP_WORKERS={http_workers}", "--env", "SWIN_GRPC_PORT=8001"]
    with running(image, *options) as container:
        load = uvloop.run(stop_under_load(container, seed=int(http_workers)))

        assert docker("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
    assert [*load.bad_outcomes()] == []
    assert min(load.responses().values()) > CLIENTS
