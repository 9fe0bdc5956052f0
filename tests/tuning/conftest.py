"""Fixtures for tests of the tuner."""

import pytest

from app.bundle.load import Bundle


@pytest.fixture(scope="session")
def demo_images(demo: Bundle) -> list[bytes]:
    """Return the golden images of the demonstration bundle."""
    return [*demo.golden_images.values()]
