"""The distribution `swin-client`: what is in it, and what it needs."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients/python"


def project_of(folder: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return project


def test_the_version_is_that_of_the_service() -> None:
    """Both are released together."""
    assert project_of(CLIENT)["version"] == project_of(ROOT)["version"]
    assert project_of(CLIENT)["requires-python"] == project_of(ROOT)["requires-python"]


def test_the_wheel_has_types_and_needs_httpx_only(tmp_path: Path) -> None:
    """It has each module and the mark of typed packages (PEP 561)."""
    source = shutil.copytree(CLIENT, tmp_path / "source", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*command, "--wheel-dir", tmp_path, source], check=True)  # noqa: S603 (our own interpreter)

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        modules = {name for name in archive.namelist() if not name.startswith("swin_client-")}
        (metadata,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA")]
    assert modules == {f"swin_client/{path.name}" for path in (CLIENT / "swin_client").iterdir() if path.is_file()}
    assert "swin_client/py.typed" in modules
    assert Parser().parsestr(metadata).get_all("Requires-Dist") == ["httpx<0.29,>=0.28"]


def test_it_is_imported_without_pillow_and_the_service() -> None:
    """The program that uses it needs httpx only."""
    blocked = "import sys; sys.modules.update(dict.fromkeys(('PIL', 'numpy', 'app', 'model_export', 'pydantic')))"

    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", f"{blocked}; import swin_client; swin_client.Client('http://swin').close()"],
        capture_output=True,
        text=True,
        cwd=CLIENT,
        env=os.environ | {"PYTHONPATH": str(CLIENT)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
