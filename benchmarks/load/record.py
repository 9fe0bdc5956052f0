"""Records of measurements: figures with the machine, the versions and the commit, in `results/`."""

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from app.system.cpus import cpu_model

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "numpy", "pillow", "fastapi", "uvicorn", "uvloop", "httptools")


def record(name: str, figures: Mapping[str, Any]) -> None:
    """Save the figures as `results/NAME.json`, and print the record as one JSON line."""
    print(json.dumps(save(name, figures)))


def save(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Save the figures as `results/NAME.json`.

    Return the record: the figures and their environment.
    """
    saved = {"benchmark": name, **figures, **_environment()}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(saved, indent=2) + "\n")
    return saved


def load(name: str) -> dict[str, Any]:
    """Return the record of this name, or `{}` if it is of other code or of another machine."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found if found.items() >= _environment().items() else {}


def _environment() -> dict[str, Any]:
    return {
        "machine": {"cpu": cpu_model(), "cpus": len(os.sched_getaffinity(0)), "system": platform.system()},
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
    }


def _versions() -> dict[str, str]:
    """Return the versions of the installed libraries. ONNX Runtime is one of two distributions."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _commit() -> str:
    """Return the short commit id, with `-dirty` after a change outside `results/` and `docs/`.

    Without a git history, return `unknown`.
    """
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", ":!benchmarks/results", ":!docs")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()  # noqa: S603 (fixed arguments)
