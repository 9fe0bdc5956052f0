"""What was measured, on which machine and of which code: a JSON line on the screen, and a file in `results/`."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIBRARIES = ("onnxruntime", "numpy", "pillow", "fastapi", "uvicorn", "uvloop", "httptools")


def record(name: str, figures: Mapping[str, Any]) -> None:
    """Print the figures, and keep them as `results/NAME.json`."""
    line = json.dumps({"benchmark": name, **figures, **_circumstances()})
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps(json.loads(line), indent=2) + "\n")
    print(line)


def _circumstances() -> dict[str, Any]:
    return {
        "machine": {"cpu": _cpu(), "cpus": len(os.sched_getaffinity(0)), "system": platform.system()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "commit": _commit(),
    }


def _cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()  # noqa: S603 (ours)
