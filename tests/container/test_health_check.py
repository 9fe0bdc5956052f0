"""The health check of the image, run without a container."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.container.engine import ROOT, SECONDS


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
