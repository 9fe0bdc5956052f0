"""Server processes of the comparison: installation, start, log and stop.

Knows nothing about load.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.system import processes
from app.system.ports import HOST, free_port
from benchmarks.comparison.baselines.network import MAX_BATCH
from benchmarks.comparison.protocols import PROTOCOLS, Protocol
from benchmarks.model.workload_models import CACHE, ROOT

BASELINES = Path(__file__).parent / "baselines"

# Timeout of a start, in seconds. On a GPU, each engine first records a graph for every batch size.
START_SECONDS = 180

# Bytes from the end of a log that an error message quotes.
LOG_TAIL = 2000

Predictions = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Launch:
    """Name, command and protocol of a server. `PORT` in the command is replaced by its port."""

    name: str
    command: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    protocol: Protocol = field(default_factory=Protocol)
    is_exact: bool = True  # apart from rounding, scores do not depend on the batch


class Server:
    """A running server process. Its log is a file in the cache."""

    def __init__(self, launch: Launch) -> None:
        self.name, self.protocol, self.is_exact = launch.name, launch.protocol, launch.is_exact
        port = free_port()
        self.address = (HOST, port)
        self.log = CACHE / "logs" / f"{launch.name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 (swin-serve or a pinned baseline)
                [str(port) if part == "PORT" else part for part in launch.command],
                env={**os.environ, **launch.variables, "PORT": str(port)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )

    def check(self) -> None:
        """Raise if the process has ended.

        Raises:
            RuntimeError: the process has ended; the message quotes its log.
        """
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} has ended: {self.log_tail()}")

    def log_tail(self) -> str:
        """Return the path and the end of the log."""
        return f"{self.log} ends with\n{self.log.read_bytes()[-LOG_TAIL:].decode(errors='replace')}"

    def resource_usage(self) -> processes.ResourceUsage:
        """Return the CPU time and memory of the process and its descendants."""
        return processes.resource_usage(self.process.pid)

    def predictions(self, body: bytes) -> Predictions:
        """Return the predictions of a response body; none if the body has another format."""
        try:
            rows: Predictions = self.protocol.parse(body)["predictions"]
        except (ValueError, KeyError, TypeError, IndexError):
            return []
        return rows

    def stop(self) -> None:
        """Kill the process and its descendants, if it still runs."""
        if self.process.poll() is None:
            processes.kill_tree(self.process.pid)
        self.process.wait()


def swin_serve(bundle: Path, name: str, *options: str, device: str = "cpu", max_batch: int = MAX_BATCH) -> Launch:
    """Return the launch of swin-serve with the limits of the baselines.

    It logs no requests, ignores color profiles, and forms batches of at most 8 images.
    """
    command = [sys.executable, "-m", "app", "run", "--bundle", str(bundle), "--device", device, "--port", "PORT"]
    limits = ["--log-level", "warning", "--color-profiles", "ignore", "--max-batch", str(max_batch)]
    return Launch(name, [*command, *limits, *options], is_exact=bundle.name != "int8")


def baseline(name: str, model: Path) -> Launch:
    """Return the launch of a baseline that serves the plain export of a model. Install it if needed.

    Raises:
        subprocess.CalledProcessError: the installation fails.
    """
    command = [str(_installed(name)), "-m", f"benchmarks.comparison.baselines.{name}"]
    return Launch(name, command, {"MODEL": str(model)}, PROTOCOLS.get(name, Protocol()))


def baseline_names() -> list[str]:
    """Return the names of all baselines: the files of `baselines/` with inline script metadata."""
    return sorted(path.stem for path in BASELINES.glob("*.py") if _requirements(path))


def _installed(name: str) -> Path:
    """Return the Python of the virtual environment of a baseline. Create or update it if needed."""
    folder = CACHE / "venvs" / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    requirements = _requirements(BASELINES / f"{name}.py")
    if not stamp.exists() or stamp.read_text() != "\n".join(requirements):
        print(f"installing {name} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)  # noqa: S603 (this interpreter)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)  # noqa: S603 (pinned)
        stamp.write_text("\n".join(requirements))
    return python


def _requirements(path: Path) -> list[str]:
    """Return the dependencies in the inline script metadata (PEP 723) of a file; none without it."""
    head = re.match(r"# /// script\n((?:#.*\n)+?)# ///\n", path.read_text())
    if head is None:
        return []
    dependencies: list[str] = tomllib.loads(head[1].replace("#", ""))["dependencies"]
    return dependencies
