"""What was measured, on which machine and of which code: a JSON line on the screen, and a file in `results/`."""

import contextlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "numpy", "pillow", "fastapi", "uvicorn", "uvloop", "httptools")


def record(name: str, figures: Mapping[str, Any]) -> None:
    """Print the figures, and keep them as `results/NAME.json`."""
    print(json.dumps(keep(name, figures)))


def keep(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the figures as `results/NAME.json`; what was kept, which is more: where and of what they were measured."""
    kept = {"benchmark": name, **figures, **_circumstances()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(kept, indent=2) + "\n")
    return kept


def kept(name: str) -> dict[str, Any]:
    """What was kept under this name of the same code on the same machine; nothing if there is none."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found if found.items() >= _circumstances().items() else {}


def _circumstances() -> dict[str, Any]:
    return {
        "machine": {"cpu": _cpu(), "cpus": len(os.sched_getaffinity(0)), "system": platform.system()},
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
    }


def _versions() -> dict[str, str]:
    """Of those that are here: ONNX Runtime is one distribution or the other."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _commit() -> str:
    """Where a copy without its history is measured, nobody knows. What is measured or written of it is no change."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", ":!benchmarks/results", ":!docs")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()  # noqa: S603, S607 (ours)
