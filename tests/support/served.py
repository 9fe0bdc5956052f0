"""A real `swin-serve` process, and requests to it over plain sockets."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPResponse
from typing import Any

import httpx

from benchmarks.load import served
from benchmarks.load.served import START_SECONDS


class Served(served.Served):
    """A real `swin-serve` process, used without asyncio."""

    def connect(self) -> socket.socket:
        """Open a plain connection to the service."""
        return socket.create_connection(self.address, timeout=START_SECONDS)

    def say(self, *pieces: bytes) -> bytes:
        """Send pieces on a new connection; return all bytes until the service closes it."""
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
            return everything(connection)


def everything(connection: socket.socket) -> bytes:
    """Return all bytes until the other side closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Return status, headers and JSON of the next response."""
    response = HTTPResponse(connection)
    response.begin()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, json.loads(response.read())


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `swin-serve`, which has to end by itself."""
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(  # noqa: S603 (our own interpreter)
        command, capture_output=True, text=True, timeout=START_SECONDS, env=os.environ | environment, check=False
    )


def stop_amid(served: Served, connection: socket.socket, begun: bytes) -> None:
    """Send the beginning of a request's content, and SIGTERM when the service has it."""
    connection.sendall(begun)
    deadline = time.monotonic() + START_SECONDS
    while not re.search(r"^swin_uploaded_bytes [1-9]", httpx.get(f"{served.url}/metrics").text, re.MULTILINE):
        assert time.monotonic() < deadline
    served.process.send_signal(signal.SIGTERM)
