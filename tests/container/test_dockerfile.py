"""The Dockerfile and the build context, read as text."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import PurePosixPath

import pytest

from tests.container.engine import ROOT

# The targets of the service.
TARGETS = ["cpu", "gpu"]

# Name of a stage → its instructions, each as words. The first instruction is FROM.
Stages = dict[str, list[list[str]]]


@pytest.fixture(scope="module")
def stages() -> Stages:
    """The stages of the Dockerfile, in order."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    stages: Stages = {}
    name = "before the first stage"
    for line in filter(None, text.splitlines()):
        words = line.split()
        if words[0] == "FROM":
            name = words[-1]
        stages.setdefault(name, []).append(words)
    return stages


def source_stages(instructions: list[list[str]]) -> set[str]:
    """Return the stages that a stage copies from or mounts."""
    return {stage for words in instructions for word in words for stage in re.findall(r"\bfrom=([\w-]+)", word)}


def context_paths(stages: Stages) -> Iterator[str]:
    """Yield the paths of the source tree that the build uses."""
    for words in (words for instructions in stages.values() for words in instructions):
        options = [word for word in words if word.startswith("--") and not re.search(r"\bfrom=", word)]
        if words[0] == "COPY" and not source_stages([words]):
            yield from [word for word in words[1:-1] if word not in options]
        yield from re.findall(r"\bsource=([^,\n]+)", "\n".join(options))


def is_in_context(path: str) -> bool:
    """Return whether .dockerignore keeps a path in the build context.

    The last pattern that matches the path, or a folder above it, decides.
    """
    is_kept = True
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        name = pattern.removeprefix("!")
        if not pattern.startswith("#") and any(
            fnmatch(str(part), name) for part in (PurePosixPath(path), *PurePosixPath(path).parents[:-1])
        ):
            is_kept = pattern.startswith("!")
    return is_kept


def requirements(*extras: str) -> list[str]:
    command = [sys.executable, str(ROOT / "docker/requirements.py"), *extras]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 (a script of this repository)
    return printed.stdout.splitlines()


def test_the_default_build_is_the_service_on_a_cpu(stages: Stages) -> None:
    """The last stage, which a build without a target makes, is `cpu`."""
    assert list(stages)[-1] == "cpu"


@pytest.mark.parametrize("target", TARGETS)
def test_both_targets_are_one_service(stages: Stages, target: str) -> None:
    """They differ in their packages: `runtime` has the rest, and starts `swin-serve` without a shell.

    A shell would not pass on signals.
    """
    assert stages[target][0] == ["FROM", "runtime", "AS", target]
    assert source_stages(stages[target]) == {f"{target}-packages"}
    assert ["ENTRYPOINT", '["swin-serve"]'] in stages["runtime"]


def test_the_service_takes_no_torch_from_other_stages(stages: Stages) -> None:
    """The service is the base image with three layers of other stages: bytecode, program and bundle."""
    assert stages["runtime"][0] == ["FROM", "base", "AS", "runtime"]
    assert source_stages(stages["runtime"]) == {"bytecode", "program", "bundle-layer"}
    assert source_stages(stages["exported-bundle"]) == {"exporter"}


@pytest.mark.parametrize("target", [*TARGETS, "runtime"])
def test_every_layer_of_the_service_is_a_copy(stages: Stages, target: str) -> None:
    """A command would write files with the time of the build, and a layer that depends on the layers below it."""
    instructions = stages[target]

    assert [words for words in instructions if words[0] in {"RUN", "ADD", "WORKDIR"}] == []
    assert [words for words in instructions if words[0] == "COPY" and "--link" not in words] == []


@pytest.mark.parametrize("target", TARGETS)
def test_the_service_installs_no_torch(stages: Stages, target: str) -> None:
    """Its requirements are those of the project and ONNX Runtime, without those of the export."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = requirements(target)

    assert any(f"source=/{target}.txt" in word for words in stages[f"{target}-packages"] for word in words)
    assert [*project["dependencies"], *project["optional-dependencies"][target]] == installed
    assert not set(project["optional-dependencies"]["export"]) & set(installed)
    assert not [line for line in installed if line.startswith("torch")]


def test_the_service_has_the_extras_that_a_variable_turns_on(stages: Stages) -> None:
    """SWIN_GRPC_PORT and the variables of OpenTelemetry work in the image: its users cannot install packages."""
    (extras,) = [" ".join(words[1:]) for words in stages["requirements"] if words[0] == "ARG"]
    commands = [" ".join(words) for words in stages["requirements"] if words[0] == "RUN"]

    assert extras == 'EXTRAS="grpc otel"'
    assert all(f"requirements.py {target} ${{EXTRAS}} >/{target}.txt" in commands[0] for target in TARGETS)


@pytest.mark.parametrize("stage", ["installer", "environment", "program", "cpu-packages", "gpu-packages", "export"])
def test_pip_installs_the_tested_versions(stages: Stages, stage: str) -> None:
    """Every download is bound to constraints.txt. A wheel of this build needs no download."""
    commands = [" ".join(words) for words in stages[stage]]
    downloads = [each for text in commands for each in text.split("&&") if "pip" in each and "install " in each]

    assert [each for each in downloads if "--constraint" not in each and "--no-deps" not in each] == []


def test_cuda_of_torch_is_free() -> None:
    """constraints.txt has no version of CUDA's libraries: torch needs others than ONNX Runtime is tested with."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()

    assert [line for line in lines if line.startswith("nvidia-")] == []


@pytest.mark.parametrize("stage", ["runtime", "export"])
def test_images_are_not_root(stages: Stages, stage: str) -> None:
    """The user is a number other than 0, so that Kubernetes' runAsNonRoot can verify it."""
    *_, user = [words[1] for words in stages[stage] if words[0] == "USER"]

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_a_gpu_image_does_not_serve_on_the_cpu(stages: Stages) -> None:
    """Without CUDA, its start fails."""
    assert ["ENV", "SWIN_DEVICE=cuda"] in stages["gpu"]


def test_the_sbom_lists_the_requirements_of_the_image() -> None:
    """`make sbom` installs the extras that the Dockerfile installs on a CPU."""
    (extras,) = re.findall(r'ARG EXTRAS="(.+)"', (ROOT / "Dockerfile").read_text())
    (sbom,) = re.findall(r"requirements\.py (.+?) >", (ROOT / "Makefile").read_text())

    assert sbom == f"cpu {extras}"


def test_the_build_context_has_all_copied_files(stages: Stages) -> None:
    """Each path that the Dockerfile copies exists, and .dockerignore keeps it."""
    paths = set(context_paths(stages))

    assert {"pyproject.toml", "constraints.txt", "app", "app/demo_bundle"} <= paths
    assert [path for path in paths if not (ROOT / path).exists() or not is_in_context(path)] == []


@pytest.mark.parametrize("path", ["my-fine-tune/model.safetensors", "checkpoints/swin.pth"])
def test_the_build_context_has_checkpoints(path: str) -> None:
    """CHECKPOINT can name a file or a folder of the repository."""
    assert is_in_context(path)


@pytest.mark.parametrize("path", [".git", ".env", ".venv/dev/bin/python", "build/wheel", "tests/container/engine.py"])
def test_the_build_context_has_no_other_files(path: str) -> None:
    """Files that no image needs, and files that may hold secrets, are not sent to the Docker engine."""
    assert not is_in_context(path)
