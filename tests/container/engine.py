"""The Docker engine: commands, builds and containers. Knows nothing about the image's content."""

import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Timeout of a command and of a start, in seconds.
SECONDS = 120
# Timeout of a build, in seconds: it downloads packages.
BUILD_SECONDS = 1500

# The options that docs and manifests recommend.
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")  # noqa: S108 (in the container)


def run_docker(*arguments: str, seconds: int = SECONDS, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command with a text as its standard input, and return its result, whatever its exit code."""
    command = ["docker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, input=text)  # noqa: S603 (arguments of tests)


def docker(*arguments: str, seconds: int = SECONDS, text: str | None = None) -> str:
    """Run a command that must succeed, and return its output."""
    result = run_docker(*arguments, seconds=seconds, text=text)
    assert result.returncode == 0, f"docker {shlex.join(arguments)}: {result.stderr[-4000:]}"
    return result.stdout.strip()


def reason_without_engine() -> str | None:
    """Return why no container can run, or None if an engine answers."""
    try:
        answer = run_docker("info", "--format", "{{.ServerVersion}}")
    except (OSError, subprocess.SubprocessError) as error:
        return f"docker cannot be run ({type(error).__name__})"
    return answer.stderr.strip().splitlines()[-1] if answer.returncode else None


def build(*options: str, context: Path = ROOT) -> str:
    """Build an image from the Dockerfile of a context, and return its id.

    pip finds the packages that it finds on this machine: in the folder PIP_FIND_LINKS, which may hold a build of torch
    for CPUs, and on PIP_EXTRA_INDEX_URL.
    """
    folder = os.environ.get("PIP_FIND_LINKS", "")
    wheels = ["--build-context", f"wheels={folder}"] if Path(folder).is_dir() and folder else []
    arguments = ["build", "--quiet", "--build-arg", "PIP_EXTRA_INDEX_URL", *wheels, *options, str(context)]
    return docker(*arguments, seconds=BUILD_SECONDS)


def layers(image: str) -> list[str]:
    """Return the digests of the layers of an image, from the base on."""
    digests: list[str] = json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
    return digests


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


def logs(container: str) -> str:
    """Return the log of a container. The service writes it to standard error, as does `docker logs`."""
    result = run_docker("logs", container)
    return result.stdout + result.stderr


def address(container: str, port: int) -> str:
    """Return the address of this machine at which a port of the container is published."""
    return docker("port", container, f"{port}/tcp").splitlines()[0]


def url(container: str) -> str:
    """Return the address of the service in a container."""
    return f"http://{address(container, 8000)}"
