"""The pytest plugin of schemathesis, for this package only. It is slow to import, so pyproject.toml leaves it out."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load the plugin when this package is collected."""
    config.pluginmanager.import_plugin("schemathesis.pytest.plugin")
