"""The documentation is true: generated pages equal the code, links resolve, names exist, examples run."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.service_address import KEY_VARIABLE
from app.settings import PREFIX, Settings
from benchmarks.load.served import START_SECONDS
from docs.generate import PAGES, all_metrics
from model_export.checkpoints.variants import VARIANTS
from tests.browser.screenshots import DIGEST, page_digest
from tests.references.table import RESULTS, SOURCES, has

ROOT = Path(__file__).parents[1]
RUN = 'if __name__ == "__main__":'
README = (ROOT / "README.md").read_text()
BENCHMARKS = (ROOT / "benchmarks/README.md").read_text()
DOCUMENTS = sorted(
    path
    for folder in (".", "docs", "benchmarks", "clients/python")
    for path in (ROOT / folder).glob("*.md" if folder != "docs" else "**/*.md")
)
# Documents of the present. The changelog and the decisions may name what no longer exists.
CURRENT = [path for path in DOCUMENTS if path.name != "CHANGELOG.md" and "decisions" not in path.parts]
# Longest README, in lines: details belong to docs/.
MAX_README_LINES = 150
# The help texts of argparse differ between minor versions of Python.
PYTHON_OF_CLI_PAGE = (3, 11)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_equals_the_code(page: str) -> None:
    """`make docs` has been run since the code that determines the page was changed."""
    if page == "reference/cli.md" and sys.version_info[:2] != PYTHON_OF_CLI_PAGE:
        pytest.skip("argparse of this Python formats help texts otherwise")

    assert (ROOT / "docs" / page).read_text() == PAGES[page]()


def test_the_page_of_commands_has_all_of_them() -> None:
    """Each command that the help text of a program lists has a section of its own."""
    page = (ROOT / "docs" / "reference" / "cli.md").read_text()
    listed = re.findall(r"^## (\S+)\n\n```text\nusage: .*?^commands:\n  \{(.*?)\}$", page, re.DOTALL | re.MULTILINE)

    assert [program for program, _ in listed] == ["swin-serve", "swin-export"]
    for program, names in listed:
        assert set(re.findall(rf"^## {program} (\S+)$", page, re.MULTILINE)) == set(names.split(","))


def test_the_screenshots_show_the_present_page() -> None:
    """`make screenshots` has been run since a file of the page was changed."""
    assert DIGEST.read_text().strip() == page_digest()


def prose_of(path: Path) -> str:
    """Return the document without its code blocks."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors_of(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", prose_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_resolves(document: Path) -> None:
    """Each link to a file of the repository names one that exists, and an anchor that it has."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(document)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        assert path.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors_of(path), f"{target} has no such heading"


@pytest.mark.parametrize("document", CURRENT, ids=name_of)
def test_every_setting_that_is_named_exists(document: Path) -> None:
    """Each variable with the prefix of settings belongs to a setting, or holds the API key of a client."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {f"{PREFIX}<NAME>", KEY_VARIABLE}

    assert set(re.findall(rf"{PREFIX}(?:[A-Z_]+|<NAME>)", document.read_text())) <= known


@pytest.mark.parametrize("document", CURRENT, ids=name_of)
def test_every_metric_that_is_named_exists(document: Path) -> None:
    """Each name with the prefix of metrics is a metric."""
    known = {name for name, *_ in all_metrics()}
    named = set(re.findall(r"`(swin_[a-z_]+)`|\b(swin_\w+?_(?:total|seconds|ratio))\b", document.read_text()))

    assert {next(filter(None, each)) for each in named} - known <= {"swin_t", "swin_s", "swin_b"}


def test_the_readme_is_short() -> None:
    """The README has at most 150 lines. Details belong to docs/."""
    assert len(README.splitlines()) <= MAX_README_LINES


def runnable_blocks(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each shell block that is marked as runnable, and whether it starts the service of later blocks."""
    for words, block in re.findall(r"^```sh runnable(.*?)\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
        yield block, "service" in words


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_the_tutorial_runs(tmp_path: Path, free_port: int) -> None:
    """The runnable blocks of the tutorial succeed one after another."""
    for name in ("app", "model_export"):
        (tmp_path / name).symlink_to(ROOT / name)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "SWIN_PORT": str(free_port), "PYTHONPATH": str(ROOT)}
    services = []
    try:
        for block, is_service in runnable_blocks(ROOT / "docs/tutorial.md"):
            command = [
                "bash",
                "-euc",
                block.replace("localhost:8000", f"127.0.0.1:{free_port}").replace("curl", "curl -fsS"),
            ]
            if is_service:
                services.append(subprocess.Popen(command, cwd=tmp_path, env=environment))  # noqa: S603 (a block of this repository)
                wait_until_ready(free_port)
            else:
                subprocess.run(command, cwd=tmp_path, env=environment, check=True)  # noqa: S603 (a block of this repository)
    finally:
        for service in services:
            service.terminate()
            service.wait(START_SECONDS)

    assert len(services) == 1
    assert (tmp_path / "evidence.png").read_bytes().startswith(b"\x89PNG")


def test_the_guide_to_scoring_runs(tmp_path: Path) -> None:
    """The runnable blocks of the guide succeed one after another, except for the installation."""
    (tmp_path / "app").symlink_to(ROOT / "app")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    for block, _ in runnable_blocks(ROOT / "docs/how-to/score.md"):
        lines = [line for line in block.splitlines() if not line.startswith("pip install")]
        command = ["bash", "-euc", "\n".join(lines)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)  # noqa: S603 (a block of this repository)

    assert "'label': 'eight'" in done.stdout


def test_the_guide_to_the_command_line_shows_what_it_prints(tmp_path: Path) -> None:
    """The runnable block of the guide prints the lines that the guide shows."""
    (tmp_path / "app").symlink_to(ROOT / "app")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    guide = ROOT / "docs/how-to/command-line.md"
    ((block, _),) = runnable_blocks(guide)
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    command = ["bash", "-euc", block]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)  # noqa: S603 (a block of this repository)

    assert f"```text\n{done.stdout}```" in guide.read_text()


def wait_until_ready(port: int) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health/ready").raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("the service of the tutorial is not ready")


# Columns of the README's table, and the servers of the benchmark.
SERVERS = {
    "swin-serve": "swin-serve",
    "… with 1 HTTP worker": "swin-serve, 1 HTTP worker",
    "… with 2": "swin-serve, 2 HTTP workers",
    "FastAPI by hand": "fastapi",
    "mosec": "mosec",
    "TorchServe": "torchserve",
}
# Rows of the README's table, and the workloads of the benchmark.
WORKLOADS = {
    "digits of 32×32, the demonstration, 32 at once": "digits",
    "photos, a network as narrow as can be, 32 at once": "photos",
    "photos, Swin-T, 8 at once": "swin-t",
}


def comparison_table() -> str:
    """Return the README's table of comparison, made of the recorded results."""
    rows = [f"| {title} | {' | '.join(comparison_cells(name))} |" for title, name in WORKLOADS.items()]
    return "\n".join([f"| | {' | '.join(SERVERS)} |", "| --- " * (len(SERVERS) + 1) + "|", *rows])


def comparison_cells(workload: str) -> list[str]:
    figures = json.loads((ROOT / f"benchmarks/results/service-{workload}.json").read_text())
    last = {row["server"]: row for row in figures["servers"]}  # the last is the one with most callers
    found = [last.get(server) for server in SERVERS.values()]
    return [f"{short(row['requests_per_second'])} · {short(row['cpu_ms'])}" if row else "–" for row in found]


def short(figure: float) -> str:
    """Return a number with three digits, or with all digits before the point."""
    return f"{figure:,.{max(2 - len(str(int(figure))) + 1, 0)}f}"


def test_the_figures_beside_others_are_the_measured_ones() -> None:
    """The README's table of requests per second and CPU time equals `benchmarks/results/`."""
    assert comparison_table() in README


def test_every_setting_gives_a_reason() -> None:
    """Each setting has a description that ends with a full stop."""
    assert all(field.description and field.description.endswith(".") for field in Settings.model_fields.values())


def test_every_benchmark_is_in_a_table_of_commands() -> None:
    """The table of commands has a row for each benchmark that can be run, and no other row."""
    named = re.findall(r"^\| `python -m benchmarks\.([\w.]+)", BENCHMARKS, re.MULTILINE)

    modules = [path for path in (ROOT / "benchmarks").rglob("*.py") if RUN in path.read_text()]
    commands = [
        path.relative_to(ROOT / "benchmarks").with_suffix("") for path in modules if "baselines" not in path.parts
    ]
    assert sorted(named) == sorted(".".join(path.parts).removesuffix(".__main__") for path in commands)


def test_every_module_of_the_benchmarks_is_in_the_table() -> None:
    """The table of modules has each module of benchmarks/ once."""
    rows = re.findall(r"^\|.*", BENCHMARKS.split("| module | what |")[1], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+\.py|baselines/)`", row.split("|")[1])]

    modules = [path.name for path in (ROOT / "benchmarks").glob("*/*.py") if not path.name.startswith("__")]
    assert sorted(named) == sorted([*modules, "baselines/"])


def test_every_variant_is_in_the_table_of_supported_models() -> None:
    """The results have each published variant and source, and no difference above 1e-4."""
    rows = json.loads(RESULTS.read_text())

    assert [row["variant"] for row in rows] == list(VARIANTS)
    for row in rows:
        assert set(row["differences"]) == {source for source in SOURCES if has(source, row["variant"])}
        assert max(row["differences"].values()) <= 1e-4
