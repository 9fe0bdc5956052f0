"""The validator of manifests."""

from importlib import import_module
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def kubernetes_validate() -> ModuleType:
    """The validator; without it, the test is skipped."""
    try:
        return import_module("kubernetes_validate")
    except ModuleNotFoundError:
        pytest.skip("kubernetes-validate is not installed; the extra test has it")
