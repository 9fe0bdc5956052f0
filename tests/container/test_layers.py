"""Reproducible layers: an equal source makes equal layers."""

import shutil
from pathlib import Path

import pytest

from tests.container.engine import ROOT, build, layers

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("engine")]

# Layers on the base image: bytecode, bundle, program, packages.
OWN_LAYERS = 4
# The build context, without the checkpoint.
FOLDERS = ["app", "docker", "model_export"]
FILES = ["Dockerfile", "LICENSE", "README.md", "constraints.txt", "constraints-gpu.txt", "pyproject.toml"]


@pytest.fixture
def another_clone(tmp_path: Path) -> Path:
    """The same files with other times and modes."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name, copy_function=shutil.copyfile)
    for name in FILES:
        shutil.copyfile(ROOT / name, tmp_path / name)
    for path in tmp_path.rglob("*"):
        path.chmod(0o770 if path.is_dir() else 0o660)
    return tmp_path


def test_layers_are_reproducible(another_clone: Path) -> None:
    """A build of another clone, which takes nothing from the cache of the engine, makes the same four layers."""
    assert layers(build("--no-cache", context=another_clone))[-OWN_LAYERS:] == layers(build())[-OWN_LAYERS:]
