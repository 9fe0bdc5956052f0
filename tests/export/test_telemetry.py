"""The export never imports ONNX Runtime with telemetry on, whichever library imports it first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model_export.demo import CHECKPOINT

ROOT = Path(__file__).parents[2]
# Prints the variable at each import of ONNX Runtime, then runs a module as `python -m` does.
WATCH = """
import importlib.abc, os, runpy, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime":
            print("disabled:", os.environ.get("ORT_DISABLE_TELEMETRY"), file=sys.stderr)

sys.meta_path.insert(0, Watch())
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("command", "imports"), [(("model_export", "build", str(CHECKPOINT)), 1), (("model_export.demo", "--help"), 0)]
)
def test_telemetry_is_off_at_the_first_import(command: tuple[str, ...], imports: int, tmp_path: Path) -> None:
    """A build imports ONNX Runtime once, with telemetry off. The help of the demonstration does not import it."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    output = [str(tmp_path / "bundle")] if imports else []

    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", WATCH, *command, *output],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "disabled:" in line] == ["disabled: 1"] * imports
