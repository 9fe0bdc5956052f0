"""The house as drawn: who imports whom, what things are called, and what the service never loads."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
APP = {path.stem: path for path in (ROOT / "app").glob("*.py")}
ROUTES = {f"routes.{path.stem}": path for path in (ROOT / "app/routes").glob("*.py")}
EXPORT = sorted((ROOT / "model_export").rglob("*.py"))

VALUES = {"errors", "settings", "bundle", "cpus", "device"}
ALLOWED = {  # module of app → modules of app it may import
    "errors": set(),
    "device": set(),
    "settings": {"device"},
    "arguments": {"reasons", "settings"},
    "reasons": set(),
    "cpus": set(),
    "ending": set(),
    "bundle": {"errors", "private_file"},
    "private_file": set(),
    "header": {"errors"},
    "memory": set(),
    "caller": set(),
    "envelope": set(),
    "icc": set(),
    "bmp": {"errors"},
    "jpeg": set(),
    "png": set(),
    "sniff": set(),
    "tiff": {"errors"},
    "image": VALUES | {"bmp", "header", "icc", "jpeg", "png", "sniff", "tiff"},
    "preprocess": VALUES,
    "ranking": VALUES,
    "evidence": VALUES,
    "nvidia": {"errors"},
    "runtime": set(),
    "tensorrt": set(),
    "binding": {"runtime"},
    "session": VALUES | {"nvidia", "runtime", "tensorrt"},
    "engine": VALUES | {"answer", "binding", "nvidia", "runtime", "session"},
    "metrics": VALUES,
    "usage": {"metrics"},
    "logs": set(),
    "schemas": set(),
    "workers": set(),
    "answer": {"admission"},
    "admission": {"errors"},
    "seat": {"admission", "workers"},
    "batcher": {"admission", "answer", "errors", "seat"},
    "channel": {"errors"},
    "slots": {"admission", "answer"},
    "desk": {"answer", "batcher", "channel", "errors", "slots"},
    "remote": {"admission", "answer", "channel", "errors", "slots"},
    "classifier": VALUES | {"admission", "answer", "image", "preprocess", "workers", "ranking", "evidence"},
    "check": VALUES | {"engine", "engines"},
    "engines": VALUES | {"engine", "golden", "nvidia", "session"},
    "golden": VALUES | {"engine", "image", "preprocess", "session"},
    "service": VALUES | {"answer", "classifier", "metrics"},
    "files": set(),
    "framing": {"errors"},
    "refusal": {"errors", "framing", "routes"},
    "connection": {"caller", "envelope", "errors", "files", "framing", "refusal", "service", "settings"},
    "handshakes": set(),
    "server": {"connection", "files", "handshakes", "service", "settings"},
    "application": VALUES | {"classifier", "image", "metrics", "routes", "service"},
    "frontend": VALUES
    | {
        "admission",
        "application",
        "channel",
        "ending",
        "logs",
        "memory",
        "metrics",
        "remote",
        "server",
        "service",
        "slots",
    },
    "life": {"channel", "desk", "frontend", "metrics"},
    "frontends": {"batcher", "channel", "desk", "errors", "frontend", "life", "metrics", "service", "slots", "usage"},
    "main": None,  # everything: it is the wiring
    "__main__": None,
    "__init__": set(),
}
ROUTES_MAY = VALUES | {"caller", "classifier", "reasons", "schemas", "service", "metrics", "logs", "routes"}
DOORS = {  # third-party library → modules of app that may import it
    "onnxruntime": {"runtime"},
    "PIL": {"bmp", "image", "icc", "preprocess", "evidence"},
    "prometheus_client": {"metrics"},
    "fastapi": {"application", "main", "routes"},
    "starlette": {"routes"},
    "uvicorn": {"connection", "server"},
    "uvloop": {"__main__", "frontend"},
}
NAMES_NOT_USED = {"utils", "util", "common", "core", "helpers", "manager", "handler", "handlers", "base", "misc"}
EXPORT_MAY = VALUES | {"image", "preprocess", "ranking", "evidence", "engine", "golden", "session"}


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, in full; `from app import x` is `app.x`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from names if node.module in {"app", "app.routes", "model_export"} else [node.module]


def of_app(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("app.")}


@pytest.mark.parametrize("module", sorted(APP))
def test_modules_import_only_what_they_may(module: str) -> None:
    """Each module of the service keeps to the table; a new one has to be entered there."""
    allowed = ALLOWED[module]

    assert allowed is None or of_app(APP[module]) <= allowed


@pytest.mark.parametrize("module", sorted(ROUTES))
def test_routes_know_no_engine(module: str) -> None:
    """Routes are HTTP in, HTTP out: below them is the classifier."""
    assert of_app(ROUTES[module]) <= ROUTES_MAY


@pytest.mark.parametrize(("library", "doors"), DOORS.items())
def test_each_library_has_its_door(library: str, doors: set[str]) -> None:
    """A third-party library is imported where the design says, and nowhere else."""
    users = {name.split(".")[0] for name, path in (APP | ROUTES).items() if library in roots(path)}

    assert users <= doors


@pytest.mark.parametrize("path", [*APP.values(), *ROUTES.values()], ids=lambda path: path.stem)
def test_the_service_knows_no_torch(path: Path) -> None:
    """Neither the build step nor anything it needs is imported by the service."""
    assert not roots(path) & {"torch", "timm", "transformers", "model_export", "onnx", "safetensors", "huggingface_hub"}


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("module", ["image", "preprocess", "ranking", "evidence", "engine", "metrics"])
def test_leaves_know_no_event_loop(module: str) -> None:
    """A leaf blocks or computes; it is the batcher and the classifier that wait."""
    assert not roots(APP[module]) & {"asyncio", "fastapi", "starlette"}


def test_the_build_step_uses_the_service_s_own_pieces_and_no_more() -> None:
    """What is verified is what will serve: contract, decoding, preprocessing, engine, evidence. Not its HTTP side."""
    used = set[str]().union(*(of_app(path) for path in EXPORT))

    assert used <= EXPORT_MAY


def test_no_name_explains_nothing() -> None:
    """If a function has no home, a concept is missing a file; not a drawer for the rest."""
    stems = {path.stem for path in [*APP.values(), *ROUTES.values(), *EXPORT]}

    assert not stems & NAMES_NOT_USED


def test_the_service_imports_without_torch() -> None:
    """`import app.main` works where the build step's libraries cannot be imported."""
    blocked = "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'onnx', 'model_export')))"

    done = subprocess.run(  # noqa: S603 (our own interpreter)
        [sys.executable, "-c", f"{blocked}; import app.main, app.__main__"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
