"""Tests of the Dockerfile, the compose file and the container image.

Tests with a Docker engine use the image that TEST_IMAGE names. It must hold the demonstration bundle:

    docker build -t swin-serve . && TEST_IMAGE=swin-serve python -m pytest -m container
"""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

import grpc
import httpx
import pytest

from app.grpc.proto.inference_pb2 import ModelInferResponse
from app.settings import DEMO_BUNDLE, Settings
from tests.support.rpc import image_request, route

ROOT = Path(__file__).parents[2]
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")  # noqa: S108 (in the container)

# Timeout of each command, in seconds.
SECONDS = 60

# Name of a stage → its instructions, each as words. The first instruction is FROM.
Stages = dict[str, list[list[str]]]


@pytest.fixture(scope="module")
def stages() -> Stages:
    """The stages of the Dockerfile, in order."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages: Stages = {}
    name = "before the first stage"
    for line in filter(None, text.splitlines()):
        words = line.split()
        if words[0] == "FROM":
            name = words[-1]
        stages.setdefault(name, []).append(words)
    return stages


def source_stages(instructions: list[list[str]]) -> set[str]:
    """Return the stages that a stage copies from or mounts."""
    return {stage for words in instructions for word in words for stage in re.findall(r"\bfrom=([\w-]+)", word)}


def context_paths(stages: Stages) -> Iterator[str]:
    """Yield the paths of the source tree that the build uses."""
    for words in (words for instructions in stages.values() for words in instructions):
        options = [word for word in words if word.startswith("--") and not re.search(r"\bfrom=", word)]
        if words[0] == "COPY" and not source_stages([words]):
            yield from [word for word in words[1:-1] if word not in options]
        yield from re.findall(r"\bsource=([^,\n]+)", "\n".join(options))


def is_in_context(path: str) -> bool:
    """Return whether .dockerignore keeps a path in the build context.

    The last pattern that matches the path, or a folder above it, decides.
    """
    is_kept = True
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        name = pattern.removeprefix("!")
        if not pattern.startswith("#") and any(
            fnmatch(str(part), name) for part in (PurePosixPath(path), *PurePosixPath(path).parents)
        ):
            is_kept = pattern.startswith("!")
    return is_kept


def requirements(*extras: str) -> list[str]:
    command = [sys.executable, str(ROOT / "docker/requirements.py"), *extras]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 (a script of this repository)
    return printed.stdout.splitlines()


def test_the_default_build_is_the_service(stages: Stages) -> None:
    """The last stage is the service, and it starts `swin-serve` without a shell, which would not pass on signals."""
    name, instructions = list(stages.items())[-1]

    assert name == "runtime"
    assert ["ENTRYPOINT", '["swin-serve"]'] in instructions


def test_the_service_takes_no_torch_from_other_stages(stages: Stages) -> None:
    """The service stage uses three other stages: the requirements, the wheel and the bundle."""
    assert stages["runtime"][0] == ["FROM", "base", "AS", "runtime"]
    assert {"requirements", "wheel", "bundle"} == source_stages(stages["runtime"])


@pytest.mark.parametrize("runtime", ["cpu", "gpu"])
def test_the_service_installs_no_torch(runtime: str) -> None:
    """Its requirements are those of the project and ONNX Runtime, without those of the export."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = requirements(runtime)

    assert [*project["dependencies"], *project["optional-dependencies"][runtime]] == installed
    assert not set(project["optional-dependencies"]["export"]) & set(installed)
    assert not [line for line in installed if line.startswith("torch")]


@pytest.mark.parametrize("extra", ["grpc", "otel"])
def test_the_service_has_the_extras_that_a_variable_turns_on(stages: Stages, extra: str) -> None:
    """SWIN_GRPC_PORT and the variables of OpenTelemetry work in the image: its users cannot install packages."""
    (command,) = [words for words in stages["requirements"] if ">/runtime.txt" in words]

    assert extra in command[: command.index(">/runtime.txt")]


@pytest.mark.parametrize("image", ["runtime", "export"])
def test_images_are_not_root(stages: Stages, image: str) -> None:
    """The user is a number other than 0, so that Kubernetes' runAsNonRoot can verify it."""
    *_, user = [words[1] for words in stages[image] if words[0] == "USER"]

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_the_image_names_its_version(stages: Stages) -> None:
    """Its label has the version of pyproject.toml, unless a build argument gives another one."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    words = [word for instruction in stages["runtime"] for word in instruction]

    assert ["ARG", f"VERSION={version}"] in stages["runtime"]
    assert 'org.opencontainers.image.version="${VERSION}"' in words


def test_the_sbom_lists_the_requirements_of_the_image() -> None:
    """`make sbom` installs the extras that the Dockerfile installs on a CPU."""
    image, _ = re.findall(r"requirements\.py (.+?) >", (ROOT / "Dockerfile").read_text())
    (sbom,) = re.findall(r"requirements\.py (.+?) >", (ROOT / "Makefile").read_text())

    assert image.replace("${ONNXRUNTIME}", "cpu") == sbom


def test_the_build_context_has_all_copied_files(stages: Stages) -> None:
    """Each path that the Dockerfile copies exists, and .dockerignore keeps it."""
    paths = set(context_paths(stages))

    assert {"pyproject.toml", "constraints.txt", "app", "app/demo_bundle"} <= paths
    assert [path for path in paths if not (ROOT / path).exists() or not is_in_context(path)] == []


@pytest.mark.parametrize(
    "path", [".git", ".venv/dev/bin/python", "tests/container/test_container.py", "my-bundle/model.onnx"]
)
def test_the_build_context_has_no_other_files(path: str) -> None:
    """Files that an image does not need are not sent to the Docker engine."""
    assert not is_in_context(path)


def compose() -> Any:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["swin-serve"]


def test_compose_waits_for_the_drain() -> None:
    """The service exits within the grace period, after which Docker kills it."""
    grace = float(compose()["stop_grace_period"].removesuffix("s"))

    assert grace > Settings.model_fields["drain_delay"].default + Settings.model_fields["drain_timeout"].default


def test_compose_is_hardened() -> None:
    """Compose grants no capability and no new privilege, and only /tmp is writable."""
    service = compose()

    assert (service["read_only"], service["tmpfs"], service["cap_drop"]) == (True, ["/tmp"], ["ALL"])  # noqa: S108 (in the container)
    assert service["security_opt"] == ["no-new-privileges:true"]


def check_health(port: int) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "SWIN_HOST": "0.0.0.0", "SWIN_PORT": str(port)}  # noqa: S104 (as in the image)
    command = [sys.executable, "-IS", str(ROOT / "docker/healthcheck.py")]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)  # noqa: S603 (fixed arguments)


@contextmanager
def answering(status: int) -> Iterator[int]:
    """Start a server that answers readiness with this status. Yield its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/ready" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (500, 1)])
def test_the_health_check_is_readiness(status: int, code: int) -> None:
    """The health check passes if readiness is 200, and fails otherwise."""
    with answering(status) as port:
        checked = check_health(port)

    assert (code, "") == (checked.returncode, checked.stderr)


def test_the_health_check_fails_without_a_listener() -> None:
    """If the connection is refused, the health check prints one line, not a stack trace."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        checked = check_health(bound.getsockname()[1])

    assert (checked.returncode, checked.stderr, len(checked.stdout.splitlines())) == (1, "", 1)


def docker(*arguments: str) -> str:
    return run_docker(*arguments).stdout.strip()


def run_docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["docker", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603 (fixed arguments)
    assert ended.returncode == 0, f"{shlex.join(command)}: {ended.stderr}"
    return ended


def logs(container: str) -> str:
    """Return the log of a container. The service writes it to standard error, as does `docker logs`."""
    ended = run_docker("logs", container)
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def image() -> str:
    """The image of TEST_IMAGE; without it or a Docker engine, the test is skipped."""
    try:
        subprocess.run(["docker", "info"], capture_output=True, timeout=SECONDS, check=True)  # noqa: S607 (the docker of the PATH)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"the Docker engine does not respond ({type(error).__name__})")
    if "TEST_IMAGE" not in os.environ:
        pytest.skip("TEST_IMAGE is not set; set it to the image to test")
    return os.environ["TEST_IMAGE"]


@contextmanager
def running(image: str, *options: str) -> Iterator[str]:
    """Start a hardened container, wait until it is healthy, and yield its id."""
    container = docker("run", "--detach", *HARDENED, "--publish", "127.0.0.1::8000", *options, image)
    try:
        deadline = time.monotonic() + SECONDS
        while (state := json.loads(docker("inspect", "--format", "{{json .State}}", container)))["Running"]:
            if state["Health"]["Status"] == "healthy":
                break
            assert time.monotonic() < deadline, logs(container)
            time.sleep(0.2)
        yield container
    finally:
        docker("rm", "--force", container)


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[str]:
    """A running container, for tests that do not change its state."""
    with running(image) as container:
        yield container


def address(container: str, port: int) -> str:
    return docker("port", container, f"{port}/tcp").splitlines()[0]


def url(container: str) -> str:
    return f"http://{address(container, 8000)}"


def in_container(container: str, code: str) -> str:
    return docker("exec", container, "python", "-c", code)


@pytest.mark.container
def test_the_image_has_no_torch(container: str) -> None:
    """Neither torch nor other requirements of the export can be imported."""
    names = ["torch", "transformers", "onnx", "onnxscript"]
    found = in_container(
        container, f"from importlib.util import find_spec; print([n for n in {names} if find_spec(n)])"
    )

    assert found == "[]"


@pytest.mark.container
def test_the_container_is_not_root(container: str) -> None:
    """The process runs as an unprivileged user that cannot change the bundle."""
    uid, writable = in_container(
        container, "import os; print(os.getuid(), os.access('/bundle/model.onnx', os.W_OK))"
    ).split()

    assert int(uid) > 0
    assert writable == "False"


@pytest.mark.container
def test_the_container_is_ready(container: str) -> None:
    """The published port answers readiness, although the container is hardened."""
    answer = httpx.get(f"{url(container)}/health/ready", trust_env=False)

    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})


@pytest.mark.container
def test_the_container_classifies(container: str) -> None:
    """An image of a handwritten seven has the label seven."""
    digit = (DEMO_BUNDLE / "golden/seven.png").read_bytes()
    answer = httpx.post(f"{url(container)}/classify", content=digit, trust_env=False)

    assert answer.json()["predictions"][0]["label"] == "seven"


@pytest.mark.container
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


@pytest.mark.container
def test_the_container_traces(image: str) -> None:
    """With an endpoint of OpenTelemetry, the log has no warning that the extra is missing."""
    with running(image, "--env", "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9") as container:
        logged = logs(container)

    assert "listening" in logged
    assert "tracing is off" not in logged


@pytest.mark.container
def test_the_container_sends_no_telemetry(container: str) -> None:
    """ONNX Runtime's telemetry is off, and does not log a failure to store its machine identifier."""
    assert "ORT_DISABLE_TELEMETRY=1" in docker("inspect", "--format", "{{json .Config.Env}}", container)
    assert "listening" in (logged := logs(container))
    assert "telemetry" not in logged


@pytest.mark.container
def test_the_container_runs_as_any_user(image: str) -> None:
    """A cluster may choose the user: one without an entry in /etc/passwd works, too."""
    with running(image, "--user", "54321:0") as container:
        assert httpx.get(f"{url(container)}/health/ready", trust_env=False).is_success


@pytest.mark.container
def test_the_container_stops_with_0(image: str) -> None:
    """SIGTERM reaches the service, and `docker stop` does not have to kill it."""
    with running(image) as container:
        docker("stop", "--time", "30", container)

        assert docker("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
