"""The clients of other projects that the tests run, and the services that they ask."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from benchmarks.load.served import START_SECONDS
from tests.clients.scripts.calls import Call
from tests.support.served import Served

ROOT = Path(__file__).parents[2]

KEY = "a-key-of-the-tests"

# The model of the demonstration bundle.
MODEL = "digits"

# Clients must reach this machine only: other hosts are behind a proxy that does not exist.
NO_NETWORK = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}

Outcome = dict[str, Any]


class Files(NamedTuple):
    """Files that clients send."""

    image: Path
    pixels: Path  # the preprocessed pixels of `image`, as NumPy saves them
    damaged: Path  # begins like an image
    text: Path  # no image
    large: Path  # above the limit of `Services.alone`
    wide: Path  # an image with more pixels than services decode


@dataclass(frozen=True)
class Script:
    """A script of `tests/clients/scripts`, and the virtual environment that runs it.

    `environment` is None for a client that the environment of the tests has.
    """

    name: str
    environment: str | None

    def __call__(self, calls: Sequence[Call], home: Path) -> list[Outcome]:
        """Return the outcomes of the calls. `home` is where the client keeps its files."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
        result = subprocess.run(  # noqa: S603 (a script of this repository)
            [self._python(), "-m", f"tests.clients.scripts.{self.name}"],
            input=json.dumps(calls),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            cwd=ROOT,
            env=variables | NO_NETWORK | {"HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"},
            check=False,
        )
        assert result.returncode == 0, result.stderr
        outcomes: list[Outcome] = json.loads(result.stdout.splitlines()[-1])
        return outcomes

    def _python(self) -> Path:
        if self.environment is None:
            return Path(sys.executable)
        python = ROOT / ".venv" / self.environment / "bin/python"
        assert python.exists(), f"{python.relative_to(ROOT)} is missing; run `make clients`, which installs it"
        return python


@dataclass(frozen=True)
class Curl:
    """The command `curl` with options that send a file. `{model}` and `{image}` stand in them and in the path."""

    path: str
    options: Sequence[str]

    def __call__(self, calls: Sequence[Call], _: Path) -> list[Outcome]:
        """Return the outcomes of the calls: the JSON of the answer, or the content of an error."""
        return [self._outcome(call) for call in calls]

    def _outcome(self, call: Call) -> Outcome:
        fields = [word for name, value in call["headers"].items() for word in ("-H", f"{name}: {value}")]
        words = [word.format(**call) for word in (*self.options, "{url}" + self.path)]
        result = subprocess.run(  # noqa: S603 (the command that the documentation shows)
            ["curl", "--silent", "--show-error", "--fail-with-body", *fields, *words],  # noqa: S607 (the user's curl)
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            env=os.environ | NO_NETWORK,
            check=False,
        )
        return {"raised": result.stdout + result.stderr} if result.returncode else {"value": json.loads(result.stdout)}


# Clients by name.
CLIENTS: Mapping[str, Callable[[Sequence[Call], Path], list[Outcome]]] = {
    "tritonclient": Script("tritonclient_http", "clients"),
    "tritonclient.aio": Script("tritonclient_aio", "clients"),
    "tritonclient.grpc": Script("tritonclient_grpc", "clients"),
    "tritonclient.grpc.aio": Script("tritonclient_grpc_aio", "clients"),
    "kserve": Script("kserve_rest", "clients"),
    "kserve gRPC": Script("kserve_grpc", "clients"),
    "mlserver": Script("mlserver_infer", "mlserver"),
    "huggingface_hub": Script("huggingface", None),
    "curl of TorchServe": Curl("/predictions/{model}", ("-T", "{image}")),
    "curl of TorchServe with a form": Curl("/predictions/{model}", ("-F", "data=@{image}")),
}


def uploaded_bytes(service: Served) -> float:
    """Return the bytes of request bodies that a service holds."""
    (value,) = re.findall(r"^swin_uploaded_bytes (\S+)$", httpx.get(f"{service.url}/metrics").text, re.MULTILINE)
    return float(value)


def call_to(service: Served, image: Path, action: str, headers: Mapping[str, str], model: str = MODEL) -> Call:
    """Return a call to a service."""
    return Call(
        url=service.url,
        rpc_address=service.grpc_address,
        image=str(image),
        model=model,
        headers=dict(headers),
        action=action,
    )


class Services:
    """Real services with HTTP and gRPC, each started when it is first asked for."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    @cached_property
    def alone(self) -> Served:
        """A service of one process that accepts bodies of 1 MiB."""
        return self._start("--http-workers", "0", "--max-body-mib", "1")

    @cached_property
    def workers(self) -> Served:
        """A service with two HTTP workers."""
        return self._start("--http-workers", "2")

    @cached_property
    def locked(self) -> Served:
        """A service with an API key."""
        return self._start("--http-workers", "0", SWIN_API_KEYS=KEY)

    @cached_property
    def busy(self) -> Served:
        """A service that has no memory left for bodies: an upload without its last byte takes all of it."""
        long = ("--request-timeout", "600", "--body-timeout", "600")
        service = self._start("--http-workers", "0", "--max-body-mib", "1", "--max-uploads-mib", "1", *long)
        self._stack.enter_context(self._unfinished_upload(service, 2**20))
        return service

    def close(self) -> None:
        """Stop all services."""
        self._stack.close()

    def _start(self, *options: str, **environment: str) -> Served:
        service = Served("--grpc-port", "0", *options, **environment)
        self._stack.callback(service.stop)
        return service

    @staticmethod
    @contextlib.contextmanager
    def _unfinished_upload(service: Served, size: int) -> Iterator[socket.socket]:
        """Upload a body of `size` bytes without the last one, and wait until the service has it."""
        head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
        with service.connect() as connection:
            connection.sendall(head + bytes(size - 1))
            deadline = time.monotonic() + START_SECONDS
            while uploaded_bytes(service) < size - 1:
                assert time.monotonic() < deadline
            yield connection
