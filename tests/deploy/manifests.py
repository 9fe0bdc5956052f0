"""The manifests of `deploy/` as objects: rendered by kubectl, or read from one file."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from app.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
KSERVE = ROOT / "deploy" / "kserve"
OVERLAYS = ("cpu", "gpu", "autoscale")
COMPONENTS = ("servicemonitor", "bundle-from-claim", "bundle-from-image")

# Bytes of the units of Kubernetes' quantities.
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}

Manifest = dict[str, Any]


class Manifests:
    """The objects of one rendering."""

    def __init__(self, objects: Iterable[Manifest]) -> None:
        self.objects = list(objects)

    @classmethod
    def read(cls, *paths: Path) -> Self:
        """Return the objects of files."""
        return cls(each for path in paths for each in yaml.safe_load_all(path.read_text()))

    def one(self, kind: str) -> Manifest:
        """Return the only object of a kind."""
        (found,) = [each for each in self.objects if each["kind"] == kind]
        return found

    @property
    def pod(self) -> Manifest:
        """The specification of the pods of the Deployment."""
        pod: Manifest = self.one("Deployment")["spec"]["template"]["spec"]
        return pod

    @property
    def container(self) -> Manifest:
        """The container of the service."""
        (container,) = self.pod["containers"]
        found: Manifest = container
        return found

    @property
    def variables(self) -> dict[str, str]:
        """The variables of the container that have a value in the manifest."""
        return {each["name"]: each["value"] for each in self.container["env"] if "value" in each}

    def settings(self, monkeypatch: pytest.MonkeyPatch) -> Settings:
        """Return the settings that the container starts with.

        Raises:
            ValidationError: the service would refuse a value.
        """
        for name in list(os.environ):
            if name.startswith(PREFIX):
                monkeypatch.delenv(name)
        for name, value in self.variables.items():
            monkeypatch.setenv(name, value)
        return Settings()


def rendered(folder: Path) -> Manifests:
    """Return what `kubectl apply -k` would send. Without kubectl, the test is skipped."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; it renders the overlays of deploy/kubernetes")
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (fixed arguments)
    assert done.returncode == 0, done.stderr
    return Manifests(yaml.safe_load_all(done.stdout))


@cache
def overlay(name: str) -> Manifests:
    """Return the objects of an overlay. The caller does not change them."""
    return rendered(KUBERNETES / "overlays" / name)


def copied(folder: Path) -> Path:
    """Copy the manifests of Kubernetes to `deploy/kubernetes` in a folder, and return where they are."""
    return shutil.copytree(KUBERNETES, folder / "deploy" / "kubernetes")


def rendered_with(folder: Path, kustomization: Mapping[str, Any] | str) -> Manifests:
    """Render a kustomization that lies in `folder`, beside a copy of the manifests.

    Its paths begin with `../deploy/kubernetes/`.
    """
    copied(folder)
    own = folder / "my-service"
    own.mkdir()
    text = kustomization if isinstance(kustomization, str) else yaml.safe_dump(dict(kustomization))
    (own / "kustomization.yaml").write_text(text)
    return rendered(own)


def with_component(folder: Path, component: str) -> Manifests:
    """Render the overlay cpu with one component."""
    base, added = "../deploy/kubernetes/overlays/cpu", f"../deploy/kubernetes/components/{component}"
    return rendered_with(folder, {"resources": [base], "components": [added]})


def size(quantity: str) -> int:
    """Return the bytes of a quantity such as `512Mi`."""
    parts = re.fullmatch(r"(\d+)(Ki|Mi|Gi)", quantity)
    assert parts is not None, f"{quantity} has no unit of this table"
    return int(parts[1]) * UNITS[parts[2]]


def instruction(name: str) -> list[str]:
    """Return the arguments of each instruction of this name in the stage `runtime`, which all images share."""
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    (stage,) = [each for each in stages if each.partition("\n")[0].endswith(" AS runtime")]
    return re.findall(rf"^{name} (.*)$", stage, re.MULTILINE)
