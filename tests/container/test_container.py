"""The images and the compose file: what can be read off them, and what a Docker engine makes of them.

What needs an engine tests the image that TEST_IMAGE names; it must hold the demonstration bundle:

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

import httpx
import pytest

from app.settings import DEMO_BUNDLE, Settings

ROOT = Path(__file__).parents[2]
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")  # noqa: S108 (the container's)
SECONDS = 60

Stages = dict[str, list[list[str]]]  # name → instructions, each as words; the first is its FROM


@pytest.fixture(scope="module")
def stages() -> Stages:
    """The Dockerfile, stage by stage in its order."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages: Stages = {}
    name = "before the first stage"
    for line in filter(None, text.splitlines()):
        words = line.split()
        if words[0] == "FROM":
            name = words[-1]
        stages.setdefault(name, []).append(words)
    return stages


def taken_from_stages(instructions: list[list[str]]) -> set[str]:
    """Stages that a stage copies from or mounts."""
    return {stage for words in instructions for word in words for stage in re.findall(r"\bfrom=([\w-]+)", word)}


def taken_from_context(stages: Stages) -> Iterator[str]:
    """Paths that the build takes from the source tree."""
    for words in (words for instructions in stages.values() for words in instructions):
        options = [word for word in words if word.startswith("--") and not re.search(r"\bfrom=", word)]
        if words[0] == "COPY" and not taken_from_stages([words]):
            yield from [word for word in words[1:-1] if word not in options]
        yield from re.findall(r"\bsource=([^,\n]+)", "\n".join(options))


def is_let_through(path: str) -> bool:
    """Whether .dockerignore lets a build see a path. The last pattern that matches it, or a folder above, decides."""
    let_through = True
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        name = pattern.removeprefix("!")
        if not pattern.startswith("#") and any(
            fnmatch(str(part), name) for part in (PurePosixPath(path), *PurePosixPath(path).parents)
        ):
            let_through = pattern.startswith("!")
    return let_through


def requirements(*extras: str) -> list[str]:
    command = [sys.executable, str(ROOT / "docker/requirements.py"), *extras]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 (our own script)
    return printed.stdout.splitlines()


def test_the_service_is_what_a_plain_build_makes(stages: Stages) -> None:
    """The last stage is the service's, and it starts `swin-serve` without a shell that would keep signals from it."""
    name, instructions = list(stages.items())[-1]

    assert name == "runtime"
    assert ["ENTRYPOINT", '["swin-serve"]'] in instructions


def test_the_service_takes_no_torch_from_other_stages(stages: Stages) -> None:
    """Of the stages before it, the service's takes a list of requirements, the wheel and the bundle, and no more."""
    assert stages["runtime"][0] == ["FROM", "base", "AS", "runtime"]
    assert {"requirements", "wheel", "bundle"} == taken_from_stages(stages["runtime"])


@pytest.mark.parametrize("runtime", ["cpu", "gpu"])
def test_the_service_installs_no_torch(runtime: str) -> None:
    """Its requirements are the project's own and ONNX Runtime's: nothing that only the export needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = requirements(runtime)

    assert [*project["dependencies"], *project["optional-dependencies"][runtime]] == installed
    assert not set(project["optional-dependencies"]["export"]) & set(installed)
    assert not [line for line in installed if line.startswith("torch")]


@pytest.mark.parametrize("image", ["runtime", "export"])
def test_images_are_not_root(stages: Stages, image: str) -> None:
    """The user is a number other than 0, so that Kubernetes' runAsNonRoot can see it."""
    *_, user = [words[1] for words in stages[image] if words[0] == "USER"]

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_the_build_sees_what_it_copies(stages: Stages) -> None:
    """Each file that the Dockerfile takes from the source tree exists, and .dockerignore lets it through."""
    paths = set(taken_from_context(stages))

    assert {"pyproject.toml", "constraints.txt", "app", "app/demo_bundle"} <= paths
    assert [path for path in paths if not (ROOT / path).exists() or not is_let_through(path)] == []


@pytest.mark.parametrize(
    "path", [".git", ".venv/dev/bin/python", "tests/container/test_container.py", "my-bundle/model.onnx"]
)
def test_the_build_sees_nothing_else(path: str) -> None:
    """What an image does not need is not sent to the engine."""
    assert not is_let_through(path)


def compose() -> Any:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["swin-serve"]


def test_compose_waits_for_the_drain() -> None:
    """Docker kills what has not stopped after the grace period; by then the service has left by itself."""
    grace = float(compose()["stop_grace_period"].removesuffix("s"))

    assert grace > Settings.model_fields["drain_delay"].default + Settings.model_fields["drain_timeout"].default


def test_compose_is_hardened() -> None:
    """Compose grants no capability, no new privilege and no writable file but in /tmp."""
    service = compose()

    assert (service["read_only"], service["tmpfs"], service["cap_drop"]) == (True, ["/tmp"], ["ALL"])  # noqa: S108 (the container's)
    assert service["security_opt"] == ["no-new-privileges:true"]


def check_health(port: int) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "SWIN_HOST": "0.0.0.0", "SWIN_PORT": str(port)}  # noqa: S104 (as in the image)
    command = [sys.executable, "-IS", str(ROOT / "docker/healthcheck.py")]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)  # noqa: S603 (our own words)


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server that gives every request this status; its port."""

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
    """The health check passes when the service says that it is ready, and only then."""
    with answering(status) as port:
        checked = check_health(port)

    assert (code, "") == (checked.returncode, checked.stderr)


def test_the_health_check_fails_where_nobody_listens() -> None:
    """A service that is gone is one line, not a stack trace."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        checked = check_health(taken.getsockname()[1])

    assert (checked.returncode, checked.stderr, len(checked.stdout.splitlines())) == (1, "", 1)


def docker(*arguments: str) -> str:
    command = ["docker", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603 (our own words)
    assert ended.returncode == 0, f"{shlex.join(command)}: {ended.stderr}"
    return ended.stdout.strip()


@pytest.fixture(scope="module")
def image() -> str:
    """The image to test."""
    try:
        subprocess.run(["docker", "info"], capture_output=True, timeout=SECONDS, check=True)  # noqa: S607 (whichever is first)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no Docker engine answers ({type(error).__name__})")
    if "TEST_IMAGE" not in os.environ:
        pytest.skip("TEST_IMAGE names no image to test")
    return os.environ["TEST_IMAGE"]


@contextmanager
def running(image: str, *options: str) -> Iterator[str]:
    """A hardened container that has become healthy; its id."""
    container = docker("run", "--detach", *HARDENED, "--publish", "127.0.0.1::8000", *options, image)
    try:
        deadline = time.monotonic() + SECONDS
        while (state := json.loads(docker("inspect", "--format", "{{json .State}}", container)))["Running"]:
            if state["Health"]["Status"] == "healthy":
                break
            assert time.monotonic() < deadline, docker("logs", container)
            time.sleep(0.2)
        yield container
    finally:
        docker("rm", "--force", container)


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[str]:
    """One that is ready, for tests that leave it as it is."""
    with running(image) as container:
        yield container


def url(container: str) -> str:
    return f"http://{docker('port', container, '8000/tcp').splitlines()[0]}"


def in_container(container: str, code: str) -> str:
    return docker("exec", container, "python", "-c", code)


@pytest.mark.container
def test_the_image_has_no_torch(container: str) -> None:
    """Neither torch nor what else only the export needs can be imported."""
    names = ["torch", "transformers", "onnx", "onnxscript"]
    found = in_container(
        container, f"from importlib.util import find_spec; print([n for n in {names} if find_spec(n)])"
    )

    assert found == "[]"


@pytest.mark.container
def test_the_container_is_not_root(container: str) -> None:
    """The process runs as an ordinary user, who cannot change what is served."""
    uid, writable = in_container(
        container, "import os; print(os.getuid(), os.access('/bundle/model.onnx', os.W_OK))"
    ).split()

    assert int(uid) > 0
    assert writable == "False"


@pytest.mark.container
def test_the_container_is_ready(container: str) -> None:
    """Readiness is answered on the published port, hardened as the container is."""
    answer = httpx.get(f"{url(container)}/health/ready", trust_env=False)

    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})


@pytest.mark.container
def test_the_container_classifies(container: str) -> None:
    """A handwritten seven is a seven."""
    digit = (DEMO_BUNDLE / "golden/seven.png").read_bytes()
    answer = httpx.post(f"{url(container)}/classify", content=digit, trust_env=False)

    assert answer.json()["predictions"][0]["label"] == "seven"


@pytest.mark.container
def test_the_container_reports_to_nobody(container: str) -> None:
    """ONNX Runtime's telemetry is off: it does not even try to keep an identifier of the machine."""
    assert "ORT_DISABLE_TELEMETRY=1" in docker("inspect", "--format", "{{json .Config.Env}}", container)
    assert "telemetry" not in docker("logs", container)


@pytest.mark.container
def test_the_container_runs_as_any_user(image: str) -> None:
    """Clusters choose the user; one that no file knows is as good as the image's own."""
    with running(image, "--user", "54321:0") as container:
        assert httpx.get(f"{url(container)}/health/ready", trust_env=False).is_success


@pytest.mark.container
def test_the_container_stops_with_0(image: str) -> None:
    """SIGTERM reaches the service, and `docker stop` need not kill it."""
    with running(image) as container:
        docker("stop", "--time", "30", container)

        assert docker("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
