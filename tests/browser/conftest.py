"""Fixtures for tests in a browser. Without Chromium or Playwright, these tests are skipped."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.visitor import Visitor, chromium, open_browser
from tests.support.served import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Open = Callable[..., Visitor]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder."""
    for item in items:
        if "tests/browser" in item.path.as_posix():
            item.add_marker("browser")


# Not for the whole run: while Playwright is open, other tests of the process cannot run an event loop.
@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A running Chromium."""
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install '.[browser]'")
    if chromium() is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def demo_service(browser: "Browser") -> Iterator[Served]:  # noqa: ARG001 (no service without a browser)
    """A service with the demonstration bundle."""
    served = Served("--http-workers", "0")
    try:
        yield served
    finally:
        served.stop()


@pytest.fixture
def visit(browser: "Browser") -> Iterator[Open]:
    """A function that opens a tab at an address of a service. After the test, no tab may have complained."""
    visitors = list[Visitor]()

    def open_visitor(url: str, **options: Any) -> Visitor:
        visitors.append(Visitor(browser, f"{url}/", **options))
        return visitors[-1]

    yield open_visitor
    complaints = [complaint for visitor in visitors for complaint in visitor.complaints]
    foreign = [url for visitor in visitors for url in visitor.foreign_requests()]
    for visitor in visitors:
        visitor.close()
    assert (complaints, foreign) == ([], [])


@pytest.fixture
def visitor(visit: Open, demo_service: Served) -> Visitor:
    """A tab with the page of the demonstration bundle."""
    visitor = visit(demo_service.url)
    visitor.open()
    return visitor
