"""A browser that visits the page, and what a person does there. Records what the browser asks and complains about."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

GOLDEN = Path(__file__).parents[2] / "app" / "demo_bundle" / "golden"

# The flags give pages a camera with a test picture. Without a sandbox, Chromium also runs as root; it
# loads only pages of the services under test.
FLAGS = ("--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
DESKTOP: dict[str, Any] = {"viewport": {"width": 1200, "height": 900}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
# Chromium ends all its requests when an interface appears or disappears on the machine, as of a container.
NETWORK_CHANGED = "net::ERR_NETWORK_CHANGED"
# A seven, as the corners of its line in shares of the drawing area.
SEVEN = ((0.25, 0.15), (0.72, 0.15), (0.55, 0.5), (0.42, 0.88))


def chromium() -> str | None:
    """Return the path of Chromium, or None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def open_browser() -> "Iterator[Browser]":
    """Start Chromium, and stop it at the end."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 (not in all environments)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """One tab of the browser.

    Args:
        browser: the browser, in which the tab has a profile of its own.
        url: the address of the page, with a slash at its end.
        options: options of the profile, as the color scheme.
    """

    def __init__(self, browser: "Browser", url: str, **options: Any) -> None:
        self.url = url
        self.requests, self.complaints = list[str](), list[str]()
        self._context = browser.new_context(**(DESKTOP | options))
        self.page = self.new_tab()

    def new_tab(self) -> "Page":
        """Open another tab of the same profile."""
        page = self._context.new_page()
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._read_console)
        return page

    def _read_console(self, message: "ConsoleMessage") -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def open(self, view: str = "") -> "Page":
        """Load the page, and wait until it can be used. Return the tab."""
        self.page.goto(f"{self.url}{view}")
        if any(NETWORK_CHANGED in complaint for complaint in self.complaints):
            self.complaints.clear()
            return self.open(view)
        self.page.locator("html[data-ready]").wait_for(state="attached")
        self.page.locator("#state[data-state=ready]").wait_for()
        return self.page

    def close(self) -> None:
        """Close the tab, and forget its profile."""
        self._context.close()

    def foreign_requests(self) -> Sequence[str]:
        """Return the requests to other hosts than the service."""
        own = urlsplit(self.url).netloc
        return [url for url in self.requests if urlsplit(url).netloc != own and not url.startswith(("blob:", "data:"))]

    def choose(self, name: str, content: bytes | None = None) -> None:
        """Choose a golden sample, or a file with this name and content."""
        content = (GOLDEN / name).read_bytes() if content is None else content
        self.page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})

    def draw(self, corners: Sequence[tuple[float, float]] = SEVEN) -> None:
        """Draw a line through these corners."""
        self.page.get_by_role("button", name="Draw", exact=True).click()
        box = self.page.locator("#drawing").bounding_box()
        assert box is not None
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for x, y in places[1:]:
            self.page.mouse.move(x, y, steps=8)
        self.page.mouse.up()

    def transfer(self, event: str, name: str) -> None:
        """Drop or paste a golden sample onto the page, as an event with a file."""
        self.page.evaluate(
            """([type, name, bytes]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
                const event = type === "paste"
                    ? new ClipboardEvent(type, { clipboardData: data, bubbles: true })
                    : new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true });
                document.getElementById("stage").dispatchEvent(event);
            }""",
            [event, name, list((GOLDEN / name).read_bytes())],
        )

    def wait_for_answer(self, label: str) -> None:
        """Wait until the best class has this label, and its evidence can be shown."""
        self.page.locator("#announcement").get_by_text(f"{label}, ").wait_for(state="attached")
        self.page.locator("#overlay-tools").wait_for()
