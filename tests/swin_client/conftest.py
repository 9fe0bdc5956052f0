"""One service with the demonstration bundle for the tests that leave it as it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import DEMO_BUNDLE
from tests.support.both_clients import (
    Ask,
    AskMany,
    ask_asynchronously,
    ask_blocking,
    ask_many_asynchronously,
    ask_many_blocking,
)
from tests.support.served import Served

GOLDEN = DEMO_BUNDLE / "golden"


@pytest.fixture(scope="session")
def service() -> Iterator[Served]:
    """A real service in one process."""
    served = Served("--http-workers", "0")
    try:
        yield served
    finally:
        served.stop()


@pytest.fixture
def seven() -> Path:
    """The file of a digit."""
    return GOLDEN / "seven.png"


@pytest.fixture(params=[ask_blocking, ask_asynchronously], ids=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Classify images one after another: a test runs with both clients."""
    ask: Ask = request.param
    return ask


@pytest.fixture(params=[ask_many_blocking, ask_many_asynchronously], ids=["Client", "AsyncClient"])
def ask_many(request: pytest.FixtureRequest) -> AskMany:
    """Classify images by `classify_many`: a test runs with both clients."""
    ask: AskMany = request.param
    return ask
