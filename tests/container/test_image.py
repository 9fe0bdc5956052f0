"""The image of the service with the demonstration bundle: what it holds, and how it runs."""

import json
import tomllib
from collections.abc import Iterator

import grpc
import httpx
import pytest

from app.grpc.proto.inference_pb2 import ModelInferResponse
from app.settings import DEMO_BUNDLE
from tests.container.engine import ROOT, SECONDS, address, docker, logs, running, url
from tests.support.rpc import image_request, route

pytestmark = pytest.mark.container

# Largest image, in bytes, of which the base image has about 150 MB.
MAX_BYTES = 450e6

# Labels of every build. test_targets.py has those that a release sets.
LABELS = {"title": "swin-serve", "licenses": "Apache-2.0", "base.name": "docker.io/library/python:3.11-slim"}


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[str]:
    """A running container, for tests that do not change its state."""
    with running(image) as container:
        yield container


def in_image(image: str, command: str) -> str:
    """Run a command of the shell as root in the image, and return its output."""
    return docker("run", "--rm", "--user", "0:0", "--entrypoint", "sh", image, "-c", command)


def in_container(container: str, code: str) -> str:
    return docker("exec", container, "python", "-c", code)


def test_the_image_is_small(image: str) -> None:
    """The layers of the image have at most 450 MB."""
    assert int(docker("image", "inspect", "--format", "{{.Size}}", image)) <= MAX_BYTES


def test_the_image_has_labels(image: str) -> None:
    """The labels of the Open Container Initiative name the program, its version, its license and its base image."""
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", image))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    expected = {f"org.opencontainers.image.{name}": value for name, value in (LABELS | {"version": version}).items()}
    assert expected.items() <= labels.items()


def test_the_image_has_no_compiler(image: str) -> None:
    """No compiler is installed, and pip is not in the environment of the service."""
    found = in_image(image, "command -v gcc cc g++ clang make; python -m pip --version 2>&1; true")

    assert found == "/opt/swin-serve/bin/python: No module named pip"


def test_the_image_has_no_files_of_the_build(image: str) -> None:
    """Caches, sources and the tests of packages stay in other stages."""
    found = in_image(image, "ls -A /root/.cache /tmp /source /wheel /layer 2>/dev/null | grep -v ':$'; true")

    assert found == ""
    assert in_image(image, "find /opt/swin-serve -name tests") == ""


def test_all_modules_are_compiled(image: str) -> None:
    """A start compiles nothing: its root is read-only, so it would compile again at each start."""
    code = "find /opt/swin-serve -name '*.py' | wc -l; find /opt/swin-serve -name '*.pyc' | wc -l"
    sources, compiled = map(int, in_image(image, code).split())

    assert sources == compiled > 0


def test_the_image_has_no_torch(container: str) -> None:
    """Neither torch nor other requirements of the export can be imported."""
    names = ["torch", "transformers", "onnx", "onnxscript"]
    found = in_container(
        container, f"from importlib.util import find_spec; print([n for n in {names} if find_spec(n)])"
    )

    assert found == "[]"


def test_the_container_is_not_root(container: str) -> None:
    """The process runs as an unprivileged user that cannot change the bundle."""
    uid, writable = in_container(
        container, "import os; print(os.getuid(), os.access('/bundle/model.onnx', os.W_OK))"
    ).split()

    assert int(uid) > 0
    assert writable == "False"


def test_the_container_is_ready(container: str) -> None:
    """The published port answers readiness, although the container is hardened."""
    answer = httpx.get(f"{url(container)}/health/ready", trust_env=False)

    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})


def labels_of_digits(container: str) -> dict[str, str]:
    """Return the label of each golden sample of the demonstration, by the name of its file."""
    files = {path.stem: path.read_bytes() for path in (DEMO_BUNDLE / "golden").glob("*.png")}
    answers = {
        name: httpx.post(f"{url(container)}/classify", content=content, trust_env=False).json()
        for name, content in files.items()
    }
    return {name: answer["predictions"][0]["label"] for name, answer in answers.items()}


def test_the_container_classifies_digits(container: str) -> None:
    """Each image of a handwritten digit has the name of the digit as its label."""
    labels = labels_of_digits(container)

    assert {name: name for name in labels} == labels
    assert "seven" in labels


def test_the_container_serves_a_mounted_bundle(image: str) -> None:
    """A folder at /bundle replaces the bundle of the image."""
    with running(image, "--volume", f"{DEMO_BUNDLE}:/bundle:ro", "--env", "SWIN_MODEL_NAME=mounted") as container:
        assert labels_of_digits(container)["one"] == "one"


def test_only_tmp_is_writable(container: str) -> None:
    """The service needs no other writable folder, so the root of the container is read-only."""
    code = "import os; print([p for p in ('/', '/bundle', '/opt/swin-serve', '/var', '/tmp') if os.access(p, os.W_OK)])"

    assert in_container(container, code) == "['/tmp']"


def test_the_container_serves_grpc(image: str) -> None:
    """SWIN_GRPC_PORT and a published port suffice: the image has the packages of the extra."""
    digit = (DEMO_BUNDLE / "golden/seven.png").read_bytes()
    with (
        running(image, "--env", "SWIN_GRPC_PORT=8001", "--publish", "127.0.0.1::8001") as container,
        grpc.insecure_channel(address(container, 8001)) as channel,
    ):
        infer = channel.unary_unary(route("ModelInfer"), None, ModelInferResponse.FromString)
        response = infer(image_request(digit).SerializeToString(), timeout=SECONDS)

    assert [(output.name, list(output.shape)) for output in response.outputs] == [("logits", [1, 10])]


def test_the_container_traces(image: str) -> None:
    """With an endpoint of OpenTelemetry, the log has no warning that the extra is missing."""
    with running(image, "--env", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9") as container:
        logged = logs(container)

    assert "listening" in logged
    assert "tracing is off" not in logged


def test_the_container_sends_no_telemetry(container: str) -> None:
    """ONNX Runtime's telemetry is off, and does not log a failure to store its machine identifier."""
    assert "ORT_DISABLE_TELEMETRY=1" in docker("inspect", "--format", "{{json .Config.Env}}", container)
    assert "listening" in (logged := logs(container))
    assert "telemetry" not in logged


def test_the_container_runs_as_any_user(image: str) -> None:
    """A cluster may choose the user: one without an entry in /etc/passwd works, too."""
    with running(image, "--user", "54321:0") as container:
        assert httpx.get(f"{url(container)}/health/ready", trust_env=False).is_success
