"""Fixtures for tests of several packages."""

import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from app.bundle.load import Bundle
    from tests.support.served import Served

pytest_plugins = ["tests.support.leftovers", "pytester"]

# Seconds in which a slow test must end, with its wait for `much_memory`. Other tests: `timeout` in pyproject.toml.
SLOW_TIMEOUT = 1800


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests, and those of containers, which build images, more time than the others."""
    for item in items:
        if item.get_closest_marker("slow") or item.get_closest_marker("container"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def no_settings_but_a_test_s() -> Iterator[None]:
    """Remove settings, also those of OpenTelemetry, from the environment: services under test do not read them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SWIN_", "OTEL_"))]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def patient_clients_where_imported(request: pytest.FixtureRequest) -> None:
    """Use `patient_clients` if a collected test imports httpx. Its import takes a tenth of the start of a small run."""
    if "httpx" in sys.modules:
        request.getfixturevalue("patient_clients")


@pytest.fixture(scope="session")
def patient_clients() -> None:
    """Raise the timeout of httpx clients: the default is 5 s, and a busy machine can need more."""
    import httpx

    from benchmarks.load.served import START_SECONDS

    default = httpx._config.DEFAULT_TIMEOUT_CONFIG  # noqa: SLF001 (what every function and client of httpx begins with)
    default.connect = default.read = default.write = default.pool = START_SECONDS


@pytest.fixture(scope="session")
def demo() -> "Bundle":
    """Return the demonstration bundle."""
    from app.bundle.load import load_bundle
    from app.settings import DEMO_BUNDLE

    return load_bundle(DEMO_BUNDLE)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small `save_pretrained` folder with random weights, 20 classes and inputs of 64×64."""
    from tests.support.networks import save_checkpoint

    return save_checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "tiny",
        image_size=64,
        depths=[2, 2, 1],
        num_heads=[2, 4, 4],
        num_labels=20,
        id2label={index: f"class {index}" for index in range(20)},
    )


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of the small checkpoint."""
    from model_export.build import build
    from model_export.console import Progress

    output = tmp_path_factory.mktemp("bundles") / "tiny"
    build(str(tiny_checkpoint), output, progress=Progress(quiet=True))
    return output


@pytest.fixture
def much_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run a test that takes gigabytes of memory alone: the other processes of the run wait for it."""
    with (tmp_path_factory.getbasetemp().parent / "much-memory").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def all_batches_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let batches be as large as the settings allow, whatever warm-up measures."""
    monkeypatch.setattr("app.inference.warmup.MIN_SAVING", -1e6)


@pytest.fixture(params=["0", "2"], ids=["alone", "http_workers"])
def http_workers(request: pytest.FixtureRequest) -> str:
    """Return the setting `http_workers`: a test runs with one process and with several."""
    many: str = request.param
    return many


@pytest.fixture
def served(http_workers: str, patient_clients: None) -> "Iterator[Served]":  # noqa: ARG001 (for its effect)
    """Start a service with the demonstration bundle, and stop it after the test."""
    from tests.support.served import Served

    served = Served("--http-workers", http_workers)
    try:
        yield served
    finally:
        served.stop()
