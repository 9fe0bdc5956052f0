"""The image under test."""

import os

import pytest

from tests.container.engine import build, reason_without_engine


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine that answers; without it, the test is skipped."""
    if reason := reason_without_engine():
        pytest.skip(f"no Docker engine: {reason}")


@pytest.fixture(scope="session")
def image(engine: None) -> str:  # noqa: ARG001 (needed first)
    """The image of TEST_IMAGE, with the demonstration bundle; without the variable, the image that the build makes."""
    return os.environ.get("TEST_IMAGE") or build()
