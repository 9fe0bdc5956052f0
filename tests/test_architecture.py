"""The house as drawn: what things are called, what each room says of itself, and what the service never loads.

Who may import whom is in `pyproject.toml`: the contracts of import-linter, which `make lint` checks.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for package in ("app", "model_export") for path in (ROOT / package).rglob("*.py"))
ROOMS = [path for path in MODULES if path.name == "__init__.py"]
NAMES_NOT_USED = {"utils", "util", "common", "core", "helpers", "manager", "handler", "handlers", "base", "misc"}


def test_no_name_explains_nothing() -> None:
    """If a function has no home, a concept is missing a file; not a drawer for the rest."""
    names = {path.stem for path in MODULES} | {path.parent.name for path in MODULES}

    assert not names & NAMES_NOT_USED


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: path.parent.name)
def test_a_room_holds_a_docstring_and_nothing_else(room: Path) -> None:
    """Importing one module of a package imports no other."""
    statements = ast.parse(room.read_text()).body

    assert [type(statement) for statement in statements] == [ast.Expr]


ROOMS_WITHOUT_TORCH = (
    *("batching", "bundle", "chaos", "classification", "cli", "container", "differential", "fuzz"),
    *("gpu", "http", "images", "inference", "observability", "processes", "server", "support", "system"),
)


def test_rooms_of_tests_are_collected_without_torch() -> None:
    """A test of the service waits for no library of the build step: these take seconds to import."""
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
    """`import app.main` works where the build step's libraries cannot be imported."""
    blocked = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'onnx', 'model_export')))"

    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", f"{blocked}; import app.main, app.cli.main"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
