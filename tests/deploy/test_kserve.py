"""The manifests of KServe agree with KServe's types, with the settings and with the Deployment."""

import copy
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from app.cli.arguments import Parser, add_settings
from app.http.middleware.authentication import HEALTH
from app.settings import Settings
from tests.deploy.manifests import KSERVE, KUBERNETES, ROOT, Manifest, Manifests, instruction, rendered

CLIENTS = ROOT / ".venv/clients/bin/python"
MANIFESTS = Manifests.read(KSERVE / "servingruntime.yaml", KSERVE / "inferenceservice.yaml")
RUNTIME: Manifest = MANIFESTS.one("ServingRuntime")["spec"]
PREDICTOR: Manifest = MANIFESTS.one("InferenceService")["spec"]["predictor"]
(CONTAINER,) = RUNTIME["containers"]

# The template that KServe replaces with the name of the InferenceService.
NAME = "{{.Name}}"


def unknown_fields(*objects: Manifest) -> list[str]:
    """Return the fields that the types of KServe's client do not have."""
    if not CLIENTS.exists():
        pytest.skip("the clients are not installed; `make clients` installs them")
    prefixes = {"serving.kserve.io/v1alpha1": "V1alpha1", "serving.kserve.io/v1beta1": "V1beta1"}
    pairs = [(each, prefixes[each["apiVersion"]] + each["kind"]) for each in objects]
    command = [str(CLIENTS), str(ROOT / "tests/deploy/kserve_fields.py")]
    done = subprocess.run(command, input=json.dumps(pairs), capture_output=True, text=True, check=False)  # noqa: S603 (a script of this repository)
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def settings_of(arguments: list[str]) -> Settings:
    """Return the settings of the arguments after the name of the command."""
    parser = Parser()
    source = add_settings(parser)
    return Settings(_cli_settings_source=source(parsed_args=parser.parse_args(arguments)))


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that the container starts with."""
    monkeypatch.delenv("SWIN_BUNDLE", raising=False)
    command, *arguments = CONTAINER["args"]
    assert command == "run"
    return settings_of(
        [each.replace(NAME, MANIFESTS.one("InferenceService")["metadata"]["name"]) for each in arguments]
    )


def test_kserve_has_all_fields() -> None:
    """Each field of both objects is one of KServe's types, or of Kubernetes' types inside of them."""
    assert unknown_fields(*MANIFESTS.objects) == []


def test_a_wrong_field_is_found() -> None:
    """A field with a typing error is found at any depth, so the test above can fail."""
    runtime = copy.deepcopy(MANIFESTS.one("ServingRuntime"))
    runtime["spec"]["protocolVersion"] = runtime["spec"].pop("protocolVersions")
    runtime["spec"]["containers"][0]["readinessProbe"]["httpGet"]["pth"] = "/"

    assert unknown_fields(runtime) == [
        "V1alpha1ServingRuntime.spec.containers[0].readinessProbe.httpGet.pth",
        "V1alpha1ServingRuntime.spec.protocolVersion",
    ]


@pytest.mark.parametrize("kind", ["ServingRuntime", "InferenceService"])
def test_the_pods_are_valid(kubernetes_validate: ModuleType, kind: str) -> None:
    """The pods that KServe makes have only fields of Kubernetes' schema, with values of their types."""
    pod = {name: RUNTIME[name] for name in ("containers", "volumes")}
    if kind == "InferenceService":
        own = {"model", "minReplicas", "maxReplicas"}
        pod |= {name: value for name, value in PREDICTOR.items() if name not in own}

    pod_manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": pod}
    kubernetes_validate.validate(pod_manifest, "1.37", strict=True)


def test_the_manifests_render() -> None:
    """`kubectl apply -k deploy/kserve` sends the two objects."""
    assert {each["kind"] for each in rendered(KSERVE).objects} == {"ServingRuntime", "InferenceService"}


def test_the_service_serves_what_kserve_stores(settings: Settings) -> None:
    """The bundle is read where KServe's storage initializer writes it."""
    assert settings.bundle == Path("/mnt/models")


def test_the_model_has_the_name_of_the_inference_service(settings: Settings) -> None:
    """Clients of KServe ask for the model by the name of the InferenceService."""
    assert settings.model_name == MANIFESTS.one("InferenceService")["metadata"]["name"]


def test_the_inference_service_selects_the_runtime() -> None:
    """Runtime, format, its version and the protocol are those that the ServingRuntime supports."""
    model = PREDICTOR["model"]

    assert model["runtime"] == MANIFESTS.one("ServingRuntime")["metadata"]["name"]
    formats = [{"name": each["name"], "version": each["version"]} for each in RUNTIME["supportedModelFormats"]]
    assert model["modelFormat"] in formats
    assert model["protocolVersion"] in RUNTIME["protocolVersions"]


def test_the_runtime_speaks_both_protocols() -> None:
    """The Open Inference Protocol is served over REST and gRPC, by the container that KServe looks for."""
    assert RUNTIME["protocolVersions"] == ["v2", "grpc-v2"]
    assert CONTAINER["name"] == "kserve-container"


def test_the_ports_are_those_of_the_settings(settings: Settings) -> None:
    """The first port is 8080, which KServe's Service asks, and the probes and the metrics use it."""
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}

    assert list(ports.items()) == [("http1", settings.port), ("grpc", settings.grpc_port)]
    assert settings.port == 8080
    assert RUNTIME["annotations"]["prometheus.kserve.io/port"] == str(settings.port)


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_a_probe_is_that_of_the_deployment(probe: str, settings: Settings) -> None:
    """The probe asks the same health route at the same pace as in `deploy/kubernetes`."""
    deployment = Manifests.read(KUBERNETES / "base/deployment.yaml").container[probe]
    expected = {**deployment, "httpGet": {**deployment["httpGet"], "port": settings.port}}

    assert CONTAINER[probe] == expected
    assert CONTAINER[probe]["httpGet"]["path"] in HEALTH


def test_the_grace_period_is_longer_than_the_drain(settings: Settings) -> None:
    """The service exits before the kubelet kills it."""
    assert PREDICTOR["terminationGracePeriodSeconds"] >= settings.drain_delay + settings.drain_timeout + 10


def test_the_resources_are_those_of_the_deployment() -> None:
    """Requests and limits equal those of the overlay cpu, and so do the settings that they depend on."""
    manifest = Manifests.read(KUBERNETES / "overlays/cpu/deployment.yaml")
    options = {f"--{name.removeprefix('SWIN_').lower().replace('_', '-')}={value}" for name, value in limits().items()}

    assert CONTAINER["resources"] == manifest.container["resources"]
    assert options <= set(CONTAINER["args"])


def limits() -> dict[str, str]:
    """Return the variables of the Deployment that bound memory, and those of the drain."""
    names = ("UPLOADS_MIB", "MEGAPIXELS", "FORMATS", "DRAIN_DELAY", "DRAIN_TIMEOUT")
    variables = Manifests.read(KUBERNETES / "base/deployment.yaml").variables
    found = {name: value for name, value in variables.items() if name.endswith(names)}
    assert len(found) == len(names)
    return found


def test_the_container_is_restricted() -> None:
    """The container meets the level `restricted` of the Pod Security Standards, as the user of the image."""
    context: dict[str, Any] = CONTAINER["securityContext"]
    (user,) = instruction("USER")

    assert (context["runAsNonRoot"], context["readOnlyRootFilesystem"]) == (True, True)
    assert context["runAsUser"] == int(user.partition(":")[0])
    assert (context["allowPrivilegeEscalation"], context["capabilities"]) == (False, {"drop": ["ALL"]})
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (PREDICTOR["enableServiceLinks"], PREDICTOR["automountServiceAccountToken"]) == (False, False)
