"""The screenshots of the documentation: `make screenshots` writes them, with digests of what they show."""

import hashlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from tests.browser import terminal_pictures
from tests.browser.visitor import DESKTOP, GOLDEN, PHONE, Visitor, open_browser
from tests.support.served import Served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
WEB, IMAGES = ROOT / "app" / "web", ROOT / "docs" / "images"
DIGEST = IMAGES / "page.sha256"

# Seconds of load before the screenshot of the view Live.
LOAD_SECONDS = 75
# Clients in each part of the load, one part after the other.
CLIENTS = (2, 12, 4, 24, 8)


def page_digest() -> str:
    """Return the digest of all files of the page."""
    digest = hashlib.sha256()
    for path in sorted(WEB.iterdir()):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def take(browser: "Browser", url: str, folder: Path, load_seconds: float = LOAD_SECONDS) -> None:
    """Write all screenshots into a folder."""
    for name, options in {
        "light": {"color_scheme": "light", **DESKTOP},
        "dark": {"color_scheme": "dark", **DESKTOP},
        "phone": {"color_scheme": "light", **PHONE},
    }.items():
        visitor = Visitor(browser, f"{url}/", reduced_motion="reduce", **options)
        visitor.open()
        visitor.draw()
        visitor.wait_for_answer("seven")
        visitor.page.mouse.move(0, 0)
        visitor.page.screenshot(path=folder / f"page-{name}.png", full_page=name != "phone")
        visitor.close()
    visitor = Visitor(browser, f"{url}/", color_scheme="light", reduced_motion="reduce")
    page = visitor.open()
    visitor.choose("four.png")
    visitor.wait_for_answer("four")
    page.locator("#stage").screenshot(path=folder / "page-evidence.png")
    page.get_by_role("link", name="Model").click()
    page.locator(".steps[data-drawn]").wait_for()
    page.wait_for_load_state("networkidle")
    page.mouse.move(0, 0)
    page.set_viewport_size({"width": 1200, "height": 1360})
    page.screenshot(path=folder / "page-model.png")
    page.set_viewport_size(DESKTOP["viewport"])
    page.get_by_role("link", name="Live").click()
    page.mouse.move(0, 0)
    _load(url, load_seconds)
    page.locator("#stages-chart .band").first.wait_for(state="attached")
    page.screenshot(path=folder / "page-live.png", full_page=True)
    visitor.close()


def _load(url: str, seconds: float) -> None:
    """Send golden samples, from several clients at once, for some seconds."""
    image = (GOLDEN / "seven.png").read_bytes()
    for clients in CLIENTS:
        end = time.monotonic() + seconds / len(CLIENTS)

        def ask(until: float = end) -> None:
            with httpx.Client() as client:
                while time.monotonic() < until:
                    client.post(f"{url}/classify", content=image)

        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def main() -> None:
    """Write the screenshots of the documentation."""
    IMAGES.mkdir(exist_ok=True)
    served = Served("--http-workers", "0")
    try:
        with open_browser() as browser:
            take(browser, served.url, IMAGES)
            digests = terminal_pictures.take(browser, IMAGES)
    finally:
        served.stop()
    DIGEST.write_text(f"{page_digest()}\n")
    terminal_pictures.store_digests(digests)


if __name__ == "__main__":
    main()
