"""The compose files: the services of the profile `monitoring`, and what they mount."""

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from tests.monitoring.prometheus import CONFIGURATION, DASHBOARD, MONITORING, ROOT, yaml_of
from tests.support.waiting import HANG_SECONDS

COMPOSE = ROOT / "docker-compose.yml"
PROVISIONING = MONITORING / "grafana/provisioning"


@pytest.fixture
def services() -> Mapping[str, Any]:
    """All services of the compose file."""
    services: Mapping[str, Any] = yaml_of(COMPOSE)["services"]
    return services


def mounts(service: Mapping[str, Any]) -> dict[PurePosixPath, Path]:
    """Return the paths in a container, and the folders of the repository that are mounted there."""
    words = [volume.split(":") for volume in service["volumes"]]
    return {PurePosixPath(there): ROOT / here for here, there, *_ in words if here.startswith(".")}


@pytest.mark.parametrize("files", [[COMPOSE], [COMPOSE, ROOT / "docker/gpu.yml"]], ids=["cpu", "gpu"])
@pytest.mark.parametrize(
    ("profile", "started"), [("", {"swin-serve"}), ("monitoring", {"swin-serve", "prometheus", "grafana"})]
)
def test_compose_starts(files: list[Path], profile: str, started: set[str]) -> None:
    """Compose reads its files, and starts Prometheus and Grafana with their profile only."""
    options = [word for file in files for word in ("--file", str(file))]
    command = ["docker", "compose", *options, "--profile", profile, "config", "--services"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)  # noqa: S603 (fixed arguments)
    except FileNotFoundError:
        pytest.skip("docker is not installed")
    if "is not a docker command" in done.stderr:
        pytest.skip("docker has no plugin compose")

    assert (done.returncode, set(done.stdout.split())) == (0, started), done.stderr


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_monitoring_is_hardened(services: Mapping[str, Any], name: str) -> None:
    """The containers run without root, capabilities and a writable image. Only this machine reaches their ports."""
    service = services[name]

    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
    assert [port for port in service["ports"] if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_images_have_a_full_version(services: Mapping[str, Any], name: str) -> None:
    """The tag of an image names major, minor and patch version, so that two starts run the same program."""
    assert re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", services[name]["image"])


def test_prometheus_scrapes_the_service_of_the_compose_file(services: Mapping[str, Any]) -> None:
    """The name is a service of the compose file, and the port is the one that the service publishes."""
    (scrape,) = yaml_of(CONFIGURATION)["scrape_configs"]
    (discovery,) = scrape["dns_sd_configs"]

    (name,) = discovery["names"]
    assert services[name]["ports"][0].endswith(f":{discovery['port']}")


def test_prometheus_mounts_its_configuration(services: Mapping[str, Any]) -> None:
    """The configuration is mounted where the image expects it."""
    assert mounts(services["prometheus"])[PurePosixPath("/etc/prometheus")] / "prometheus.yml" == CONFIGURATION


def test_grafana_finds_the_dashboard(services: Mapping[str, Any]) -> None:
    """The provider of dashboards, and the setting of the first page, name the place at which the file is mounted."""
    (provider,) = yaml_of(PROVISIONING / "dashboards/swin-serve.yml")["providers"]
    first_page = PurePosixPath(services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    folder = PurePosixPath(provider["options"]["path"])

    assert mounts(services["grafana"])[folder] / first_page.relative_to(folder) == DASHBOARD
    assert mounts(services["grafana"])[PurePosixPath("/etc/grafana/provisioning")] == PROVISIONING


def test_grafana_asks_prometheus(services: Mapping[str, Any]) -> None:
    """The data source is the service of Prometheus, and knows its scrape interval, on which all rates depend."""
    (source,) = yaml_of(PROVISIONING / "datasources/prometheus.yml")["datasources"]

    assert "prometheus" in services
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == yaml_of(CONFIGURATION)["global"]["scrape_interval"]
