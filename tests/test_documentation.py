"""What is written is true: settings, metrics and the tree of the README are those of the code."""

import json
import re
from pathlib import Path
from typing import Any

from app.observability.metrics import Metrics
from app.settings import DEMO_BUNDLE, Settings
from model_export.checkpoints.variants import VARIANTS
from tests.references.table import MARKS, SOURCES, has

ROOT = Path(__file__).parents[1]
RUN = 'if __name__ == "__main__":'
README = (ROOT / "README.md").read_text()
BENCHMARKS = (ROOT / "benchmarks/README.md").read_text()
SERVERS = {
    "swin-serve": "swin-serve",
    "… with 1 HTTP worker": "swin-serve, 1 HTTP worker",
    "… with 2": "swin-serve, 2 HTTP workers",
    "FastAPI by hand": "fastapi",
    "mosec": "mosec",
    "TorchServe": "torchserve",
}
CONTESTS = {
    "digits of 32×32, the demonstration, 32 at once": "digits",
    "photos, a network as narrow as can be, 32 at once": "photos",
    "photos, Swin-T, 8 at once": "swin-t",
}
"""Rows of the README's table, and the benchmark's names for them."""


def contest_table() -> str:
    """What others and we do, from the results that are kept. Paste it into the README when it differs."""
    rows = [f"| {title} | {' | '.join(contest_cells(name))} |" for title, name in CONTESTS.items()]
    return "\n".join([f"| | {' | '.join(SERVERS)} |", "| --- " * (len(SERVERS) + 1) + "|", *rows])


def contest_cells(workload: str) -> list[str]:
    figures = json.loads((ROOT / f"benchmarks/results/service-{workload}.json").read_text())
    last = {row["server"]: row for row in figures["servers"]}  # the last is the one with most callers
    found = [last.get(server) for server in SERVERS.values()]
    return [f"{short(row['requests_per_second'])} · {short(row['cpu_ms'])}" if row else "–" for row in found]


def short(figure: float) -> str:
    """Three digits, or all before the point."""
    return f"{figure:,.{max(2 - len(str(int(figure))) + 1, 0)}f}"


def settings_table() -> str:
    """The README's table of settings, made from the settings. Paste it there when it differs."""
    rows = [
        f"| `--{name.replace('_', '-')}` | `SWIN_{name.upper()}` | {shown(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| option | variable | default | what it trades for what |", "| --- | --- | --- | --- |", *rows])


def shown(default: Any) -> str:
    if default in (None, (), ""):
        return "unset"
    if isinstance(default, tuple):
        return f"`{','.join(default)}`"
    if isinstance(default, bool):
        return f"`{default}`".lower()
    return "`app/demo_bundle`" if default == DEMO_BUNDLE else f"`{default}`"


def test_every_setting_is_in_the_readme() -> None:
    """Name, default and sentence of each setting stand in the README as in the code."""
    assert settings_table() in README


def test_the_figures_beside_others_are_the_measured_ones() -> None:
    """The README's table of requests/s and CPU time is made of what `benchmarks/results/` holds."""
    assert contest_table() in README


def test_every_setting_gives_a_reason() -> None:
    """A setting without a sentence could not be chosen."""
    assert all(field.description and field.description.endswith(".") for field in Settings.model_fields.values())


def labels_of(collector: Any, family: Any) -> list[str]:
    """Names. They are the collector's own, or where it makes its families itself, theirs."""
    owner = collector if hasattr(collector, "_labelnames") else family
    return list(owner._labelnames)  # noqa: SLF001 (not to be had otherwise)


def test_every_metric_is_documented() -> None:
    """docs/metrics.md has every metric with its labels, and none that is not there."""
    documented = {
        name: re.findall(r"`(\w+)`", labels)
        for name, labels in re.findall(
            r"^\| `(swin_\w+)` \| (.*?) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE
        )
    }
    suffix = {"counter": "_total", "info": "_info"}
    actual = {
        f"{family.name}{suffix.get(family.type, '')}": labels_of(collector, family)
        for collector in vars(Metrics()).values()
        if hasattr(collector, "describe")
        for family in collector.describe()
    }

    assert actual.keys() == documented.keys()
    for name, labels in actual.items():
        told = documented[name]  # what an info tells beside its labels is not known before it does
        assert labels == (told[: len(labels)] if name.endswith("_info") else told)


def test_every_file_is_in_the_tree() -> None:
    """Each module has its line in the README's tree, and the tree names nothing that is not there."""
    tree = README.split("## Layout")[1].split("```")[1]
    drawn = set(re.findall(r"^ +([\w.]+\.py|[\w.]+/)", tree, re.MULTILINE))
    modules = {path.name for folder in ("app", "model_export") for path in (ROOT / folder).rglob("*.py")}

    assert modules - {"__init__.py"} <= drawn
    assert {name for name in drawn if name.endswith(".py")} <= modules


def test_every_benchmark_is_in_a_table_of_commands() -> None:
    """Each module of benchmarks/ that can be run has its row, and no other."""
    named = re.findall(r"^\| `python -m benchmarks\.([\w.]+)", BENCHMARKS, re.MULTILINE)

    modules = [path for path in (ROOT / "benchmarks").rglob("*.py") if RUN in path.read_text()]
    commands = [
        path.relative_to(ROOT / "benchmarks").with_suffix("") for path in modules if "baselines" not in path.parts
    ]
    assert sorted(named) == sorted(".".join(path.parts).removesuffix(".__main__") for path in commands)


def test_every_module_of_the_benchmarks_is_in_the_table() -> None:
    """Each has its place in a row, and no other has."""
    rows = re.findall(r"^\|.*", BENCHMARKS.split("| module | what |")[1], re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`(\w+\.py|baselines/)`", row.split("|")[1])]

    modules = [path.name for path in (ROOT / "benchmarks").glob("*/*.py") if not path.name.startswith("__")]
    assert sorted(named) == sorted([*modules, "baselines/"])


def test_every_variant_is_in_the_table_of_supported_models() -> None:
    """`make supported-models` has been run since the last variant was added, and every difference is tolerated."""
    table = README.split(MARKS[0])[1].split(MARKS[1])[0]
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", table, re.MULTILINE)
    differences = [float(cell) for _, cells in rows for cell in cells.split("|")[4:] if "e-" in cell]

    assert [name for name, _ in rows] == list(VARIANTS)
    assert len(differences) == sum(has(source, name) for name in VARIANTS for source in SOURCES)
    assert max(differences) <= 1e-4
