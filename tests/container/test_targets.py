"""Other builds than the default one: a checkpoint, a bundle, fewer extras, and the target `gpu`."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from app.settings import DEMO_BUNDLE
from tests.container.engine import HARDENED, build, docker, run_docker, running, url

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("engine")]

# A checkpoint of the repository, as a path in the build context.
CHECKPOINT = "model_export/data/demo_checkpoint"


def check(image: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `swin-serve check` in a hardened container."""
    return run_docker("run", "--rm", *HARDENED, *options, image, "check")


@pytest.mark.skipif(
    not os.environ.keys() & {"PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"},
    reason="set PIP_EXTRA_INDEX_URL to an index of torch's builds for CPUs: the default one installs CUDA",
)
def test_the_build_exports_a_checkpoint() -> None:
    """With CHECKPOINT, the image has the bundle of a checkpoint, under the name of its folder, and no torch."""
    image = build("--build-arg", f"CHECKPOINT={CHECKPOINT}")
    with running(image) as container:
        manifest = httpx.get(f"{url(container)}/model", trust_env=False).json()["manifest"]

    assert manifest["name"] == Path(CHECKPOINT).name
    assert run_docker("run", "--rm", "--entrypoint", "python", image, "-c", "import torch").returncode == 1


def test_the_build_takes_a_bundle(tmp_path: Path) -> None:
    """The named context `bundle` replaces the demonstration bundle."""
    bundle = shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"name": "flowers"}))
    checked = check(build("--build-context", f"bundle={bundle}"))

    assert (checked.returncode, checked.stdout.splitlines()[0]) == (0, "bundle   flowers, fp32")


def test_the_build_leaves_out_extras() -> None:
    """Without EXTRAS, gRPC and OpenTelemetry are not installed, and the service passes its check."""
    image = build("--build-arg", "EXTRAS=")
    packages = "from importlib.metadata import distributions; print(*(each.name for each in distributions()))"
    installed = docker("run", "--rm", "--entrypoint", "python", image, "-c", packages).split()

    assert {"grpcio", "opentelemetry-sdk"}.isdisjoint(installed)
    assert "onnxruntime" in installed
    assert check(image).returncode == 0


def test_the_build_names_version_and_revision() -> None:
    """The labels have the build arguments of a release."""
    image = build("--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=abc")
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", image))

    assert labels["org.opencontainers.image.version"] == "1.2.3"
    assert labels["org.opencontainers.image.revision"] == "abc"


@pytest.mark.slow
def test_the_gpu_target_without_a_gpu() -> None:
    """Without a GPU, the check ends with one sentence, and not with a service on the CPU."""
    checked = check(build("--target", "gpu"), "--env", "NVIDIA_VISIBLE_DEVICES=void")

    assert checked.returncode != 0
    assert len(checked.stderr.splitlines()) == 1
    assert checked.stderr.startswith("swin-serve: there is no NVIDIA driver")
