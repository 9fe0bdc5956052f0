"""The compose file, alone and with Prometheus."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.settings import DEMO_BUNDLE, Settings
from tests.container.engine import ROOT, SECONDS, docker, run_docker
from tests.monitoring.prometheus import alerts, program, yaml_of

COMPOSE = ROOT / "docker-compose.yml"

# Debian's Prometheus in place of the image of the same name, which needs a registry: the same arguments and user.
STAND_IN = """
FROM python:3.11-slim
USER 0:0
RUN install --directory --owner=65534 --group=65534 /prometheus
COPY prometheus /bin/prometheus
USER 65534:65534
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
"""

Compose = Callable[..., str]


def service() -> Any:
    """Return the service of the compose file."""
    return yaml_of(COMPOSE)["services"]["swin-serve"]


def test_compose_waits_for_the_drain() -> None:
    """The service exits within the grace period, after which Docker kills it."""
    grace = float(service()["stop_grace_period"].removesuffix("s"))

    assert grace > Settings.model_fields["drain_delay"].default + Settings.model_fields["drain_timeout"].default


def test_compose_is_hardened() -> None:
    """Compose grants no capability and no new privilege, and only /tmp is writable."""
    options = service()

    assert (options["read_only"], options["tmpfs"], options["cap_drop"]) == (True, ["/tmp"], ["ALL"])  # noqa: S108 (in the container)
    assert options["security_opt"] == ["no-new-privileges:true"]


def test_compose_builds_the_targets() -> None:
    """Without a GPU, compose builds the default target; with `docker/gpu.yml`, the target `gpu`."""
    gpu = yaml_of(ROOT / "docker/gpu.yml")["services"]["swin-serve"]

    assert service()["build"] == "."
    assert gpu["build"] == {"target": "gpu"}


@pytest.fixture(scope="module")
def prometheus_image(engine: None) -> str:  # noqa: ARG001 (needed first)
    """The image of the compose file if it can be pulled, otherwise the stand-in."""
    name: str = yaml_of(COMPOSE)["services"]["prometheus"]["image"]
    if run_docker("pull", "--quiet", name, seconds=10 * SECONDS).returncode == 0:
        return name
    folder = Path(program("prometheus")).parent
    return docker("build", "--quiet", "--file", "-", str(folder), text=STAND_IN)


@pytest.fixture(scope="module")
def compose(image: str, prometheus_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """Run a command of compose on services that are up: the service and Prometheus, on free ports of this machine."""
    override = tmp_path_factory.mktemp("compose") / "images.yml"
    free_port = {"swin-serve": ["127.0.0.1::8000"], "prometheus": ["127.0.0.1::9090"]}
    images = {"swin-serve": image, "prometheus": prometheus_image}
    override.write_text(services_file(images, free_port))
    files = ["--file", str(COMPOSE), "--file", str(override)]
    options = ["compose", "--project-name", f"swin-test-{uuid4().hex[:8]}", *files, "--profile", "monitoring"]

    def command(*arguments: str) -> str:
        return docker(*options, *arguments, seconds=2 * SECONDS)

    try:
        command("up", "--detach", "--no-build", "--wait", *images)
        yield command
    finally:
        command("down", "--volumes")


def services_file(images: dict[str, str], ports: dict[str, list[str]]) -> str:
    """Return a compose file that replaces images and published ports."""
    lines = ["services:"]
    for name, image in images.items():
        lines += [f"  {name}:", f"    image: {json.dumps(image)}", f"    ports: !override {json.dumps(ports[name])}"]
    return "\n".join([*lines, ""])


def ask(address: str, path: str) -> Any:
    """Return the data of an answer of Prometheus."""
    return httpx.get(f"http://{address}{path}", trust_env=False).json()["data"]


@pytest.mark.container
def test_compose_serves(compose: Compose) -> None:
    """`docker compose up` ends when the service is healthy, and the published port classifies."""
    digit = (DEMO_BUNDLE / "golden/seven.png").read_bytes()
    answer = httpx.post(f"http://{compose('port', 'swin-serve', '8000')}/classify", content=digit, trust_env=False)

    assert answer.json()["predictions"][0]["label"] == "seven"


@pytest.mark.container
def test_prometheus_scrapes_the_service_by_its_name(compose: Compose) -> None:
    """Prometheus finds the service by the name service of compose, and scrapes it."""
    address = compose("port", "prometheus", "9090")
    deadline = time.monotonic() + SECONDS
    while not (targets := ask(address, "/api/v1/targets?state=active")["activeTargets"]) or (
        targets[0]["health"] == "unknown"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.5)

    assert [(each["health"], each["lastError"]) for each in targets] == [("up", "")]
    assert re.fullmatch(r"[\d.]+:8000", targets[0]["discoveredLabels"]["__address__"])


@pytest.mark.container
def test_prometheus_loads_the_alerts(compose: Compose) -> None:
    """The mounted rules are those of the repository."""
    groups = ask(compose("port", "prometheus", "9090"), "/api/v1/rules")["groups"]

    assert [rule["name"] for group in groups for rule in group["rules"]] == [rule["alert"] for rule in alerts()]
