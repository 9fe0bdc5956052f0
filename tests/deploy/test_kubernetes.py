"""The rendered manifests of Kubernetes are valid, and agree with the settings, the routes and the image."""

import copy
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError

from app.cli.run import default_http_workers
from app.http.middleware.authentication import HEALTH
from app.settings import Settings
from tests.deploy.manifests import (
    COMPONENTS,
    KUBERNETES,
    OVERLAYS,
    ROOT,
    Manifest,
    instruction,
    overlay,
    rendered_with,
    size,
    with_component,
)

# The oldest and the newest version of Kubernetes that the manifests are for. Older ones have no
# `unhealthyPodEvictionPolicy`, which is on by default from 1.27.
VERSIONS = ("1.27", "1.37")
# The first version with image volumes.
VERSION_OF_IMAGE_VOLUMES = "1.31"
# Kinds of operators. `kubernetes-validate` has no schema for them; other tests check their fields.
CUSTOM = {"ScaledObject", "ServiceMonitor"}

# The resident memory of the service with a Swin-T and that of an HTTP worker, in bytes, as measured in
# docs/decisions/0064-kubernetes.md; on a GPU, an estimate.
SERVICE_BYTES = {"cpu": 480 * 2**20, "autoscale": 480 * 2**20, "gpu": 2 * 2**30}
HTTP_WORKER_BYTES = 70 * 10**6
# The most that decoding took for one pixel, in bytes: a WebP with transparency.
BYTES_PER_PIXEL = 22

PAGE = ROOT / "docs/how-to/kubernetes.md"

each_overlay = pytest.mark.parametrize("name", OVERLAYS)


def check(validator: ModuleType, objects: list[Manifest], version: str) -> int:
    """Validate the objects of built-in kinds strictly. Return their number."""
    built_in = [each for each in objects if each["kind"] not in CUSTOM]
    for each in built_in:
        validator.validate(each, version, strict=True)
    return len(built_in)


@pytest.mark.parametrize("version", VERSIONS)
@each_overlay
def test_an_overlay_is_valid(kubernetes_validate: ModuleType, name: str, version: str) -> None:
    """Every object of a built-in kind has only fields of Kubernetes' schema, with values of their types."""
    assert check(kubernetes_validate, overlay(name).objects, version) >= 4


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_is_valid(kubernetes_validate: ModuleType, tmp_path: Path, component: str) -> None:
    """The same holds with each component."""
    version = VERSION_OF_IMAGE_VOLUMES if component == "bundle-from-image" else VERSIONS[0]

    assert check(kubernetes_validate, with_component(tmp_path, component).objects, version) >= 4


def test_the_validation_finds_a_wrong_name(kubernetes_validate: ModuleType) -> None:
    """A field with a typing error is refused, so the tests above can fail."""
    deployment = copy.deepcopy(overlay("cpu").one("Deployment"))
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["readinessProb"] = container.pop("readinessProbe")

    with pytest.raises(kubernetes_validate.ValidationError, match="readinessProb"):
        check(kubernetes_validate, [deployment], VERSIONS[1])


@each_overlay
def test_the_variables_are_settings(name: str) -> None:
    """Each variable with the prefix of settings names a setting, and none is given twice."""
    names = [each["name"] for each in overlay(name).container["env"]]

    assert set(names) <= {f"SWIN_{field.upper()}" for field in Settings.model_fields}
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("name", "device"), [("cpu", "cpu"), ("gpu", "cuda"), ("autoscale", "cpu")])
def test_the_settings_are_valid(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service accepts all values, and takes the device of the overlay only."""
    assert overlay(name).settings(monkeypatch).device == device


@each_overlay
def test_the_grace_period_is_longer_than_the_drain(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service exits before the kubelet kills it, with 10 s to spare."""
    settings = overlay(name).settings(monkeypatch)

    grace = overlay(name).pod["terminationGracePeriodSeconds"]
    assert grace >= settings.drain_delay + settings.drain_timeout + 10


@each_overlay
def test_every_accepted_request_can_finish(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drain lasts as long as the longest request, and begins when load balancers have removed the pod."""
    settings = overlay(name).settings(monkeypatch)

    assert settings.drain_timeout >= settings.request_timeout
    assert settings.drain_delay >= 5


@each_overlay
@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_a_probe_asks_a_route_that_needs_no_key(name: str, probe: str) -> None:
    """The path is a health route, and the port is the one of HTTP."""
    get = overlay(name).container[probe]["httpGet"]

    assert get["path"] in HEALTH
    assert get["path"].endswith("ready") == (probe == "readinessProbe")
    assert get["port"] == "http"


@each_overlay
def test_a_start_may_last_as_long_as_in_docker(name: str) -> None:
    """The startup probe waits at least as long as the start period of the image's health check."""
    probe = overlay(name).container["startupProbe"]
    (period,) = re.findall(r"--start-period=(\d+)s", " ".join(instruction("HEALTHCHECK")))

    assert probe["periodSeconds"] * probe["failureThreshold"] >= int(period)


@each_overlay
def test_ports_match(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The container has the ports of the settings, and the Service has the same two."""
    settings = overlay(name).settings(monkeypatch)
    ports = {port["name"]: port["containerPort"] for port in overlay(name).container["ports"]}

    assert ports == {"http": settings.port, "grpc": settings.grpc_port}
    service = overlay(name).one("Service")["spec"]["ports"]
    assert {port["targetPort"]: port["port"] for port in service} == ports


@each_overlay
def test_the_network_policy_admits_the_ports(name: str) -> None:
    """Both ports of the container are open, no other port is, and no connection leaves."""
    policy = overlay(name).one("NetworkPolicy")["spec"]
    admitted = [port["port"] for rule in policy["ingress"] for port in rule["ports"]]

    assert admitted == [port["name"] for port in overlay(name).container["ports"]]
    assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])


@each_overlay
def test_selectors_match_the_pods(name: str) -> None:
    """Deployment, Service, budget, network policy and spread select the labels of the pods."""
    deployment = overlay(name).one("Deployment")["spec"]
    selectors = [
        deployment["selector"]["matchLabels"],
        overlay(name).one("Service")["spec"]["selector"],
        overlay(name).one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        overlay(name).one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in overlay(name).pod["topologySpreadConstraints"]),
    ]

    labels = deployment["template"]["metadata"]["labels"]
    assert len(selectors) == 6
    assert all(selector and selector.items() <= labels.items() for selector in selectors)


@each_overlay
def test_the_pods_are_restricted(name: str) -> None:
    """The pods meet the level `restricted` of the Pod Security Standards, on a read-only file system."""
    pod, container = overlay(name).pod, overlay(name).container

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}


@each_overlay
def test_the_user_is_the_one_of_the_image(name: str) -> None:
    """Pods run as the user and the group of the Dockerfile."""
    context = overlay(name).pod["securityContext"]

    assert instruction("USER") == [f"{context['runAsUser']}:{context['runAsGroup']}"]


@pytest.mark.parametrize(("name", "suffix"), [("cpu", ""), ("gpu", "-gpu"), ("autoscale", "")])
def test_the_image_has_the_version_of_the_project(name: str, suffix: str) -> None:
    """The tag is a version, not `latest`, which a node could hold in another state than its neighbor."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert overlay(name).container["image"] == f"swin-serve:{version}{suffix}"


@each_overlay
def test_variables_of_services_are_off(name: str) -> None:
    """Kubernetes adds no variables of Services, which can have the names of settings."""
    assert overlay(name).pod["enableServiceLinks"] is False


def test_variables_of_services_can_break_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """SWIN_PORT, as Kubernetes sets it for a Service named `swin`, is refused: the reason for the switch above."""
    monkeypatch.setenv("SWIN_PORT", "tcp://10.96.0.10:8000")

    with pytest.raises(ValidationError, match="port"):
        Settings()


def cpus(container: dict[str, Any]) -> int:
    """Return the CPUs of the limit, which the service counts its threads by."""
    limit = container["resources"]["limits"]["cpu"]
    assert re.fullmatch(r"[1-9]\d*", limit), "the limit is not a whole number"
    return int(limit)


@each_overlay
def test_the_cpu_limit_equals_the_request(name: str) -> None:
    """The pod gets the CPUs that the service counts its threads by."""
    resources = overlay(name).container["resources"]

    assert resources["requests"]["cpu"] == str(cpus(overlay(name).container))


@each_overlay
def test_clients_cannot_exceed_the_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit holds the service, all uploads, and the largest image in each decode thread."""
    settings, container = overlay(name).settings(monkeypatch), overlay(name).container
    threads = settings.decode_threads or cpus(container) + 2
    workers = default_http_workers(cpus(container)) if settings.http_workers is None else settings.http_workers

    needed = SERVICE_BYTES[name] + workers * HTTP_WORKER_BYTES + settings.max_uploads_mib * 2**20
    needed += round(threads * settings.max_megapixels * 10**6) * BYTES_PER_PIXEL
    assert needed <= size(container["resources"]["limits"]["memory"])
    assert "avif" not in settings.formats


@each_overlay
def test_tmp_holds_the_largest_network(name: str) -> None:
    """The private copy of the largest supported network fits into the volume at /tmp, with its head."""
    (mount,) = [each for each in overlay(name).container["volumeMounts"] if each["mountPath"] == "/tmp"]  # noqa: S108 (in the container)
    (volume,) = [each for each in overlay(name).pod["volumes"] if each["name"] == mount["name"]]
    results = json.loads((ROOT / "benchmarks/results/supported-models.json").read_text())

    assert "medium" not in volume["emptyDir"]
    assert max(row["megabytes"] for row in results) * 10**6 * 1.1 <= size(volume["emptyDir"]["sizeLimit"])


@each_overlay
def test_a_disruption_leaves_a_pod(name: str) -> None:
    """With the fewest pods, the budget and an update leave at least one that serves."""
    deployment = overlay(name).one("Deployment")["spec"]
    fewest = deployment.get("replicas") or overlay(name).one("ScaledObject")["spec"]["minReplicaCount"]

    assert fewest > overlay(name).one("PodDisruptionBudget")["spec"]["maxUnavailable"]
    assert fewest > deployment["strategy"]["rollingUpdate"]["maxUnavailable"]


def test_only_the_overlay_gpu_takes_a_gpu() -> None:
    """Pods of the overlay gpu have one GPU each, and the others have none."""
    limits = {name: overlay(name).container["resources"]["limits"].get("nvidia.com/gpu") for name in OVERLAYS}

    assert limits == {"cpu": None, "gpu": "1", "autoscale": None}


@pytest.mark.parametrize(
    ("component", "source"), [("bundle-from-claim", "persistentVolumeClaim"), ("bundle-from-image", "image")]
)
def test_a_bundle_is_mounted_where_the_service_reads_it(tmp_path: Path, component: str, source: str) -> None:
    """The volume replaces the bundle of the image, and the service cannot write to it."""
    manifests = with_component(tmp_path, component)
    (bundle,) = re.findall(r"SWIN_BUNDLE=(\S+)", " ".join(instruction("ENV")))

    mounts = [each for each in manifests.container["volumeMounts"] if each["mountPath"] == bundle]
    assert mounts == [{"name": "bundle", "mountPath": bundle, "readOnly": True}]
    (volume,) = [each for each in manifests.pod["volumes"] if each["name"] == "bundle"]
    assert source in volume


def test_the_service_monitor_finds_the_service(tmp_path: Path) -> None:
    """It selects the labels of the Service, one of its ports, and the route of the metrics."""
    manifests = with_component(tmp_path, "servicemonitor")
    monitor, service = manifests.one("ServiceMonitor")["spec"], manifests.one("Service")

    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"


def test_the_example_of_the_page_renders(tmp_path: Path) -> None:
    """The page's own overlay takes the image, the settings and the component that it names."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    manifests = rendered_with(tmp_path, text)

    assert manifests.container["image"] == "registry.example.com/flowers:2"
    assert manifests.variables["SWIN_MODEL_NAME"] == "flowers"
    assert {each["metadata"]["namespace"] for each in manifests.objects} == {"flowers"}
    assert manifests.one("ServiceMonitor")


def test_the_page_names_all_folders() -> None:
    """The page names each overlay and each component."""
    folders = [path.name for part in ("overlays", "components") for path in (KUBERNETES / part).iterdir()]

    assert len(folders) == 7
    assert [name for name in folders if f"`{name}`" not in PAGE.read_text()] == []
