"""A server to measure, ours or another's: how it is installed, started and read."""

import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.comparison.baselines.network import MAX_BATCH
from benchmarks.comparison.protocols import PROTOCOLS, Protocol
from benchmarks.load import processes
from benchmarks.model.models import CACHE, ROOT

PEERS = Path(__file__).parent / "baselines"
START_SECONDS = 180
"""A GPU records every batch size of each engine first."""

WORDS = 2000
"""Bytes of a log that a failure is told with."""

HOST = "127.0.0.1"
Predictions = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Launch:
    """What it takes to start one."""

    name: str
    command: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    protocol: Protocol = field(default_factory=Protocol)
    is_exact: bool = True  # an image's answer does not depend on its batch, but for rounding


class Server:
    """One that runs."""

    def __init__(self, launch: Launch) -> None:
        self.name, self.protocol, self.is_exact = launch.name, launch.protocol, launch.is_exact
        port = _free_port()
        self.address = (HOST, port)
        self.log = CACHE / "logs" / f"{launch.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 (ours, or a peer of ours)
                [str(port) if part == "PORT" else part for part in launch.command],
                env={**os.environ, **launch.variables, "PORT": str(port)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    def check(self) -> None:
        """Return if it still runs.

        Raises:
            RuntimeError: it has ended.
        """
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} has ended: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log, and where all of it is."""
        return f"{self.log} ends with\n{self.log.read_bytes()[-WORDS:].decode(errors='replace')}"

    def taken(self) -> processes.Taken:
        """What it and its descendants have taken."""
        return processes.taken(self.process.pid)

    def predictions(self, body: bytes) -> Predictions:
        """What an answer says; nothing where it is none."""
        try:
            rows: Predictions = self.protocol.read(body)["predictions"]
        except (ValueError, KeyError, TypeError, IndexError):
            return []
        return rows

    def stop(self) -> None:
        """End it and its descendants, if it still runs."""
        if self.process.poll() is None:
            processes.end(self.process.pid)
        self.process.wait()


def ours(bundle: Path, name: str, *options: str, device: str = "cpu", max_batch: int = MAX_BATCH) -> Launch:
    """This service as the others are: no log of requests, colors whatever their profile says, batches of up to 8."""
    command = [sys.executable, "-m", "app", "run", "--bundle", str(bundle), "--device", device, "--port", "PORT"]
    alike = ["--log-level", "warning", "--color-profiles", "ignore", "--max-batch", str(max_batch)]
    return Launch(name, [*command, *alike, *options], is_exact=bundle.name != "int8")


def peer(name: str, model: Path) -> Launch:
    """Another server, on the plain export of the same network; installed first where it is not yet.

    Raises:
        subprocess.CalledProcessError: it cannot be installed.
    """
    command = [str(_installed(name)), "-m", f"benchmarks.comparison.baselines.{name}"]
    return Launch(name, command, {"MODEL": str(model)}, PROTOCOLS.get(name, Protocol()))


def peers() -> list[str]:
    """All there are, by their files."""
    return sorted(path.stem for path in PEERS.glob("*.py") if _requirements(path))


def _installed(name: str) -> Path:
    """The Python of the peer's virtual environment, with what its file asks for."""
    folder = CACHE / "venvs" / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = _requirements(PEERS / f"{name}.py")
    if not stamp.exists() or stamp.read_text() != "\n".join(wanted):
        print(f"installing {name} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)  # noqa: S603 (ours)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)  # noqa: S603 (pinned)
        stamp.write_text("\n".join(wanted))
    return python


def _requirements(path: Path) -> list[str]:
    """Of its inline script metadata; none where it has no such head."""
    head = re.match(r"# /// script\n((?:#.*\n)+?)# ///\n", path.read_text())
    if head is None:
        return []
    wanted: list[str] = tomllib.loads(head[1].replace("#", ""))["dependencies"]
    return wanted


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
    return port
