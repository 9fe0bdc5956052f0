"""A real `swin-serve`, and what is said to it over a bare socket."""

import json
import os
import queue
import socket
import subprocess
import sys
import threading
from http.client import HTTPResponse
from typing import Any

START_SECONDS = 60


class Served:
    """A real `swin-serve`; its log is read line by line."""

    def __init__(self, *options: str, **environment: str) -> None:
        command = [
            sys.executable,
            "-m",
            "app",
            "run",
            "--device",
            "cpu",
            "--log-format",
            "json",
            "--port",
            "0",
            *options,
        ]
        self.process = subprocess.Popen(  # noqa: S603 (our own interpreter)
            command, stderr=subprocess.PIPE, text=True, env=os.environ | environment
        )
        self.log: queue.Queue[dict[str, object]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = str(self.wait_for("listening")["url"])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.put(json.loads(line))

    def wait_for(self, message: str) -> dict[str, object]:
        """The next event of this name."""
        while True:
            event = self.log.get(timeout=START_SECONDS)
            if event["message"] == message:
                return event

    def stop(self) -> int:
        """End it if it still runs; its exit code."""
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait(timeout=START_SECONDS)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def connect(self) -> socket.socket:
        """A bare connection to it."""
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=START_SECONDS)

    def say(self, *pieces: bytes) -> bytes:
        """Send pieces on a connection of their own; all that is answered until it is closed."""
        with self.connect() as connection:
            for piece in pieces:
                connection.sendall(piece)
            return everything(connection)


def everything(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def answer_of(connection: socket.socket) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of the next answer, whatever becomes of the connection."""
    response = HTTPResponse(connection)
    response.begin()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, json.loads(response.read())


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`swin-serve`, expected to end by itself."""
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(  # noqa: S603 (our own interpreter)
        command, capture_output=True, text=True, timeout=START_SECONDS, env=os.environ | environment, check=False
    )
