"""The decisions agree with the code: their table, the files and the names that they mention."""

import re
from pathlib import Path

from app.http.parameters import SingleImageParameters
from app.service_address import KEY_VARIABLE
from app.settings import Settings
from docs.generate import all_metrics

ROOT = Path(__file__).parents[1]
DECISIONS = ROOT / "docs/decisions"
PROGRAMS = ("app", "model_export", "tests", "benchmarks", "clients")
# Options and identifiers of other projects, which decisions name and the code does not use.
FOREIGN_OPTIONS = {"--dist", "--data-binary", "--http2"}
FOREIGN_NAMES = {
    "SCHED_BATCH",
    "arena_extend_strategy",
    "map22kto1k",
    "map_batches",
    "scaled_dot_product_attention",
    "sched_yield",
}

BEGINNING = re.compile(
    r"# (\d{4}): (.+)\n\nStatus: ((?:accepted|rejected|superseded by \d{4}), \d{4}-\d\d-\d\d)\n\n## Context\n"
)
# A path below one of the folders, possibly with stars; and a file name that stands alone.
FILE_PATH = re.compile(r"(?<![\w/-])(?:app|model_export|tests|benchmarks|clients|docs|docker)/[\w*./-]*[\w*/]")
FILE_NAME = re.compile(r"(?<![\w/.*])\w+\.py\b")
COMMAND = re.compile(r"python -m ((?:tests|benchmarks)[\w.]*\w)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]+")
METRIC = re.compile(r"\bswin_\w+_(?:total|seconds|ratio|bytes|info|depth|size|progress)\b")
QUOTED = re.compile(r"`([^`]+)`")
IDENTIFIER = re.compile(r"(?<![\w/.-])[A-Za-z]\w*_\w+(?![\w/-])")
ASSIGNMENT = re.compile(r"([a-z]\w*)=[\w:,.-]+")


def decision_files() -> list[Path]:
    return sorted(DECISIONS.glob("[0-9]*.md"))


def title_and_status(path: Path) -> tuple[str, str]:
    """Return the title and the status of a decision, which its first lines hold."""
    beginning = BEGINNING.match(path.read_text())
    assert beginning is not None, f"{path.name} does not begin with a title, a status and a context"
    assert beginning[1] == path.name[:4]
    return beginning[2], beginning[3]


def accepted_decisions() -> dict[str, str]:
    """Return the texts of the decisions that the code follows, by file name."""
    return {
        path.name: path.read_text() for path in decision_files() if title_and_status(path)[1].startswith("accepted")
    }


def python_files() -> list[Path]:
    return [path for name in PROGRAMS for path in (ROOT / name).rglob("*.py") if path != Path(__file__)]


def test_the_decisions_are_listed() -> None:
    """docs/decisions/README.md has each decision with its title and its status, and the numbers have no gap."""
    listed = (DECISIONS / "README.md").read_text()
    table = re.findall(r"^\| \[(\d{4})\]\((.+?)\) \| (.+) \| (.+) \|$", listed, re.MULTILINE)

    decisions = [(path.name[:4], path.name, *title_and_status(path)) for path in decision_files()]
    assert table == decisions
    assert [number for number, *_ in decisions] == [f"{number:04}" for number in range(1, len(decisions) + 1)]


def test_a_status_names_a_decision() -> None:
    """The decision that supersedes another exists."""
    numbers = {path.name[:4] for path in decision_files()}
    for path in decision_files():
        assert set(re.findall(r"superseded by (\d{4})", path.read_text())) <= numbers, path.name


def test_files_of_accepted_decisions_exist() -> None:
    """Every path, command and Python file that an accepted decision names is in the tree."""
    modules = {path.name for path in python_files()}
    for name, text in accepted_decisions().items():
        paths = [each.rstrip("/") for each in FILE_PATH.findall(text)]
        paths += [each.replace(".", "/") + "*" for each in COMMAND.findall(text)]

        assert [each for each in paths if not any(ROOT.glob(each))] == [], name
        assert [each for each in FILE_NAME.findall(text) if each not in modules] == [], name


def test_names_of_accepted_decisions_exist() -> None:
    """Every option, variable, setting, metric and identifier that an accepted decision names is in the code."""
    code = "\n".join(path.read_text() for path in [*python_files(), ROOT / "pyproject.toml"])
    words, options = set(re.findall(r"\w+", code)), set(OPTION.findall(code)) | FOREIGN_OPTIONS
    options |= {f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    variables = {f"SWIN_{name.upper()}" for name in Settings.model_fields} | {KEY_VARIABLE}
    metrics = {metric for metric, *_ in all_metrics()}
    assignable = Settings.model_fields.keys() | SingleImageParameters.model_fields.keys()

    for name, text in accepted_decisions().items():
        quoted = [each.replace("\n", " ") for each in QUOTED.findall(text)]
        identifiers = {found for each in quoted for found in IDENTIFIER.findall(each)}
        assigned = {found[1] for each in quoted if (found := ASSIGNMENT.fullmatch(each))}

        assert set(OPTION.findall(text)) <= options, name
        assert set(re.findall(r"\bSWIN_[A-Z_]+\b", text)) <= variables, name
        assert set(METRIC.findall(text)) <= metrics, name
        assert identifiers <= words | metrics | FOREIGN_NAMES, name
        assert assigned <= assignable, name
