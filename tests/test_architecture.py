"""Tests of the layout: names, docstrings of packages, and libraries that the service never imports.

The import contracts are in `pyproject.toml`; `make lint` checks them.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for package in ("app", "model_export") for path in (ROOT / package).rglob("*.py"))
CLIENT = ROOT / "clients/python/swin_client"
ROOMS = [path for path in MODULES if path.name == "__init__.py"]
NAMES_NOT_USED = {"utils", "util", "common", "core", "helpers", "manager", "handler", "handlers", "base", "misc"}


def test_no_name_explains_nothing() -> None:
    """No module or package has a name without meaning, such as `utils`."""
    names = {path.stem for path in (*MODULES, *CLIENT.glob("*.py"))} | {path.parent.name for path in MODULES}

    assert not names & NAMES_NOT_USED


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: path.parent.name)
def test_a_room_holds_a_docstring_and_nothing_else(room: Path) -> None:
    """An `__init__.py` is a docstring, so that importing one module imports no other."""
    statements = ast.parse(room.read_text()).body

    assert [type(statement) for statement in statements] == [ast.Expr]


def test_no_package_of_tests_is_skipped(pytestconfig: pytest.Config) -> None:
    """No package has a name that pytest does not enter, such as `build` or `dist`."""
    packages = {path.parent.name for path in (ROOT / "tests").rglob("test_*.py")}

    assert not packages & set(pytestconfig.getini("norecursedirs"))


ROOMS_WITHOUT_TORCH = (
    *("batching", "browser", "bundle", "chaos", "classification", "cli", "container", "deploy", "differential", "fuzz"),
    *(
        "gpu",
        "grpc",
        "http",
        "openapi",
        "images",
        "inference",
        "load",
        "monitoring",
        "observability",
        "processes",
        "scoring",
        "server",
        "support",
        "swin_client",
        "system",
        "tuning",
    ),
)


def test_rooms_of_tests_are_collected_without_torch() -> None:
    """Collecting the tests of the service imports neither torch nor transformers, which take seconds."""
    blocked = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers')))"
    rooms = [f"tests/{room}" for room in ROOMS_WITHOUT_TORCH]

    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", f"{blocked}; import pytest; sys.exit(pytest.main(sys.argv[1:]))", "--co", "-qq", *rooms],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_the_service_imports_without_torch() -> None:
    """`import app.main` works without the libraries of the build step."""
    blocked = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'onnx', 'model_export')))"

    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", f"{blocked}; import app.main, app.cli.main"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
