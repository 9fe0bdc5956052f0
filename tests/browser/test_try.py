"""Tests of the view Try in a browser: each way to give an image, the answer, and the evidence.

After each test, the fixture `visit` checks that the console has no error and that no request went to another host.
"""

import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.conftest import Open
from tests.browser.visitor import GOLDEN, Visitor
from tests.references.draw import draw_picture
from tests.support.images import encode
from tests.support.served import Served

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / ".venv" / "clients" / "bin" / "python"


def picture_of(visitor: Visitor, layer: str) -> str:
    """Return a digest of the pixels of a layer of the stage."""
    url: str = visitor.page.locator(layer).evaluate("canvas => canvas.toDataURL()")
    return hashlib.sha256(url.encode()).hexdigest()


def test_a_drawn_seven_is_a_seven(visitor: Visitor) -> None:
    """A seven that is drawn with the mouse has the answer "seven" on top."""
    visitor.draw()
    visitor.wait_for_answer("seven")

    assert visitor.page.locator("#bars li").first.inner_text().startswith("seven")


def test_drawing_works_with_the_keyboard(visitor: Visitor) -> None:
    """Arrows and the space bar draw a one."""
    visitor.page.get_by_role("button", name="Draw", exact=True).press("Enter")
    keys = ["ArrowUp"] * 3 + [" "] + ["ArrowDown"] * 22 + [" "]
    for key in keys:
        visitor.page.keyboard.press(key)

    visitor.wait_for_answer("one")


def test_clear_removes_drawing_and_answer(visitor: Visitor) -> None:
    """After Clear, the drawing area is empty and there is no answer."""
    visitor.page.get_by_role("button", name="Draw", exact=True).click()
    empty = picture_of(visitor, "#drawing")
    visitor.draw()
    visitor.wait_for_answer("seven")
    visitor.page.get_by_role("button", name="Clear").click()

    assert visitor.page.locator("#bars li").count() == 0
    visitor.page.locator("#drawing").blur()
    assert visitor.page.locator("#caption").inner_text() == ""
    assert len(empty) == 64


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_file_can_be_dropped_and_pasted(visitor: Visitor, event: str) -> None:
    """A dropped file and a pasted one are classified."""
    visitor.transfer(event, "four.png")
    visitor.wait_for_answer("four")

    assert visitor.page.locator("#caption").inner_text().startswith("four.png: 8 × 8 pixels, 178 bytes.")


def test_a_file_can_be_chosen(visitor: Visitor) -> None:
    """The button opens the browser's dialog, and the chosen file is classified."""
    with visitor.page.expect_file_chooser() as dialog:
        visitor.page.get_by_role("button", name="Choose an image").click()
    dialog.value.set_files(GOLDEN / "two.png")

    visitor.wait_for_answer("two")


def test_the_camera_takes_a_picture(visitor: Visitor) -> None:
    """A picture of the camera is classified, and the camera is closed."""
    visitor.page.get_by_role("button", name="Camera").click()
    visitor.page.get_by_role("button", name="Take the picture").click()
    visitor.page.locator("#overlay-tools").wait_for()

    assert visitor.page.locator("#caption").inner_text().startswith("camera.jpg: 640 × 480 pixels")
    assert visitor.page.locator("#video").evaluate("video => video.srcObject") is None


def test_the_first_visit_offers_a_golden_sample(visitor: Visitor) -> None:
    """One click on the sample gives an answer."""
    button = visitor.page.locator("#sample")
    button.wait_for()
    label = re.findall("“(.*)”", button.inner_text())[0]
    button.click()

    visitor.wait_for_answer(label)


def test_selecting_a_class_changes_the_evidence(visitor: Visitor) -> None:
    """Another bar shows other evidence, and names its class."""
    visitor.choose("four.png")
    visitor.wait_for_answer("four")
    first = picture_of(visitor, "#evidence")
    second = visitor.page.locator("#bars button").nth(1)
    label = second.locator(".label").inner_text()
    second.click()

    assert picture_of(visitor, "#evidence") != first
    assert second.get_attribute("aria-pressed") == "true"
    assert visitor.page.locator("#bars [aria-pressed=true]").count() == 1
    assert label in visitor.page.locator("#legend-for").inner_text()


def test_the_strength_of_the_evidence_goes_down_to_nothing(visitor: Visitor) -> None:
    """At 0 %, nothing is painted over the image."""
    visitor.choose("four.png")
    visitor.wait_for_answer("four")
    visitor.page.locator("#strength").fill("0")

    assert visitor.page.locator("#strength-value").inner_text() == "0 %"
    blank = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.every(v => v === 0)"
    assert visitor.page.locator("#evidence").evaluate(blank)


def test_the_page_shows_what_the_network_saw(visitor: Visitor) -> None:
    """With the toggle, the stage shows the pixels of the network's input instead of the image."""
    visitor.choose("photo.png", encode(draw_picture(300, 100)))
    visitor.page.locator("#overlay-tools").wait_for()
    upload = picture_of(visitor, "#image")
    visitor.page.get_by_label("What the network saw").check()

    assert picture_of(visitor, "#image") != upload
    visitor.page.get_by_label("What the network saw").uncheck()
    assert picture_of(visitor, "#image") == upload


@pytest.mark.parametrize(("entered", "shown"), [("3", 3), ("10", 10), ("99", 10), ("0", 1)])
def test_the_number_of_classes_can_change(visitor: Visitor, entered: str, shown: int) -> None:
    """The answer has as many classes as asked for, within the limits of the model."""
    visitor.choose("four.png")
    visitor.wait_for_answer("four")
    visitor.page.locator("#top-k").fill(entered)
    visitor.page.locator("#top-k").press("Enter")

    visitor.page.locator(f"#bars:not(:has(li:nth-child({shown + 1}))) li:nth-child({shown})").wait_for()
    assert visitor.page.locator("#top-k").input_value() == str(shown)
    assert f"top_k={shown}&" in visitor.page.locator("#snippet").inner_text()


def test_the_stages_add_up(visitor: Visitor) -> None:
    """The waterfall has each stage, and each begins where the one before it ends."""
    visitor.choose("four.png")
    visitor.wait_for_answer("four")
    rows = visitor.page.locator("#waterfall tbody tr")
    names = [row.locator("th").inner_text() for row in rows.all()]
    boxes = [row.locator(".bar-of").bounding_box() for row in rows.all()]
    edges = [(box["x"], box["x"] + box["width"]) for box in boxes if box]

    assert names == ["read", "decode", "preprocess", "queue", "infer", "rank", "evidence"]
    assert all(abs(start - end) < 3 for (_, end), (start, _) in itertools.pairwise(edges))


def test_an_error_is_a_sentence(visitor: Visitor) -> None:
    """A file that is no image gets the problem document's detail in plain view."""
    visitor.choose("notes.png", b"these are notes")
    visitor.page.locator("#notice").wait_for()

    assert "not an image" in visitor.page.locator("#notice").inner_text()
    visitor.complaints.clear()  # Chromium reports the status of each refused request


def test_a_file_beyond_the_limit_is_not_sent(visit: Open, demo_service: Served) -> None:
    """The page knows the limit and says it before it sends anything."""
    visitor = visit(demo_service.url)
    visitor.open()
    visitor.choose("large.png", bytes(33 * 2**20))
    visitor.page.locator("#notice").wait_for()

    text = visitor.page.locator("#notice").inner_text()
    assert text == "large.png has 33.0 MiB, and the service takes 32.0 MiB. Choose a smaller file."
    assert [url for url in visitor.requests if "/classify" in url] == []


def test_an_image_that_the_browser_cannot_show_is_classified(visitor: Visitor) -> None:
    """The stage shows what the network saw of a TIFF."""
    visitor.choose("scan.tiff", encode(Image.open(GOLDEN / "two.png").convert("RGB"), "TIFF"))
    visitor.wait_for_answer("two")

    blank = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.every(v => v === 0)"
    assert not visitor.page.locator("#image").evaluate(blank)


def snippet(visitor: Visitor, language: str) -> str:
    """Return the code of the present request in a language."""
    visitor.page.get_by_role("tab", name=language).click()
    return visitor.page.locator("#snippet").inner_text()


COMMANDS = {
    "curl": ["bash", "-c"],
    "Python": [sys.executable, "-c"],
    "JavaScript": ["node", "--input-type=module", "--eval"],
    "tritonclient": [str(CLIENTS), "-c"],
}


@pytest.mark.parametrize("language", COMMANDS)
def test_the_code_sends_the_same_request(visitor: Visitor, language: str, tmp_path: Path) -> None:
    """The code to copy runs and finds the same class."""
    command = COMMANDS[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{Path(command[0]).name} for {language} is not installed")
    visitor.choose("four.png")
    visitor.wait_for_answer("four")
    shutil.copy(GOLDEN / "four.png", tmp_path)
    done = subprocess.run(  # noqa: S603 (the code of the page)
        [*command, snippet(visitor, language)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )

    assert done.returncode == 0, done.stderr
    assert "four" in done.stdout


def test_the_code_can_be_copied(visit: Open, demo_service: Served) -> None:
    """The button copies the code of the chosen language, and says so."""
    visitor = visit(demo_service.url, permissions=["clipboard-read", "clipboard-write"])
    visitor.open()
    visitor.choose("four.png")
    visitor.wait_for_answer("four")
    code = snippet(visitor, "Python")
    visitor.page.get_by_role("button", name="Copy").click()
    visitor.page.get_by_role("button", name="Copied").wait_for()

    assert visitor.page.evaluate("navigator.clipboard.readText()") == code
    assert visitor.page.locator("#copied").inner_text() == "Copied"
