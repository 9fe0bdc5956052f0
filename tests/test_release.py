"""Releases: one version in all files, a reproducible wheel, tags of images, and workflows that run make."""

import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

# Files and folders that can have the version. CHANGELOG.md has all versions; `make docs` writes the page of OpenAPI.
PLACES = [
    *("Dockerfile", "Makefile", "README.md", "CONTRIBUTING.md", "pyproject.toml", "clients/python/pyproject.toml"),
    *("docker", "docs", "deploy"),
]
GENERATED = "docs/reference/openapi.json"


def files_with_the_version() -> set[str]:
    """Return the files that have the version, as paths from the root."""
    version = re.compile(rf"(?<![\w.]){re.escape(VERSION)}(?![\w.])")
    files = [path for place in PLACES for path in (ROOT / place, *(ROOT / place).rglob("*"))]
    texts = [path for path in files if path.suffix in {"", ".json", ".md", ".toml", ".yaml", ".yml"} and path.is_file()]
    return {str(path.relative_to(ROOT)) for path in texts if version.search(path.read_text())}


def dry_run(*arguments: str) -> str:
    """Return the commands that make would run, on one line each."""
    # `-o` keeps the virtual environment, whatever the times of its requirements.
    command = ["make", "--dry-run", "-o", ".venv/dev/ready", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 (fixed arguments)
    return done.stdout.replace("\\\n", "")


def test_one_command_writes_the_version() -> None:
    """`make version` knows each file that repeats the version of pyproject.toml."""
    (names,) = re.findall(r"^VERSIONED := (.+?)(?<!\\)\n", MAKEFILE, re.MULTILINE | re.DOTALL)

    assert files_with_the_version() - {GENERATED} == set(names.replace("\\\n", "").split())


def test_the_image_has_the_version() -> None:
    """The label of a build without arguments has the version of pyproject.toml."""
    assert f"\nARG VERSION={VERSION}\n" in (ROOT / "Dockerfile").read_text()


def test_the_changelog_begins_with_the_version() -> None:
    """Its first section is the version of pyproject.toml."""
    sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert sections[0] == VERSION


def test_tags_of_images() -> None:
    """A version X.Y.Z moves the tags X.Y and latest. The image for a GPU has the same tags with -gpu."""
    pushed = dry_run("push", "REPOSITORY=registry.example.com/swin-serve")
    tags = re.findall(r"--tag registry\.example\.com/swin-serve:(\S+)", pushed)

    minor = VERSION.rpartition(".")[0]
    names = [VERSION, minor, "latest"]
    assert tags == [*names, *(f"{name}-gpu" for name in names)]


def test_images_are_pushed_with_sbom_and_provenance() -> None:
    """Each of the two builds attaches both attestations."""
    builds = dry_run("push", "REPOSITORY=registry.example.com/swin-serve").split("&&")[:2]

    assert [target for build in builds for target in re.findall(r"--target (\w+)", build)] == ["cpu", "gpu"]
    assert all("--sbom=true" in build and "--provenance=mode=max" in build for build in builds)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_targets_of_make(workflow: Path) -> None:
    """Each `make` of a workflow names targets that exist, so that a developer can run the same commands."""
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    words = [
        word for line in re.findall(r"(?:run: |\$\()make ([^\n)]+)", workflow.read_text()) for word in line.split()
    ]
    named = [word for word in words if not word.startswith("-") and "=" not in word]

    assert named
    assert set(named) <= targets


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned(workflow: Path) -> None:
    """Each action is named by its commit, which cannot move as a tag can, with its version beside it."""
    uses = re.findall(r"uses: (.+)", workflow.read_text())

    assert uses
    assert [line for line in uses if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", line)] == []


def build_wheel(source: Path, folder: Path) -> str:
    """Build the wheel as `make wheel` does, and return its digest."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    environment = {"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run([*command, str(folder), str(source)], check=True, env=environment, capture_output=True)  # noqa: S603 (fixed arguments)
    (wheel,) = folder.glob("*.whl")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_the_wheel_is_reproducible(tmp_path: Path) -> None:
    """Two clones with different times of their files make wheels with the same digest."""
    digests = set()
    for clone in (tmp_path / "one", tmp_path / "two"):
        for name in ("app", "model_export"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, clone / name, copy_function=shutil.copyfile, ignore=ignored)
        for name in ("LICENSE", "README.md", "pyproject.toml"):
            shutil.copyfile(ROOT / name, clone / name)
        digests.add(build_wheel(clone, clone / "dist"))

    assert len(digests) == 1
