"""Pictures of `swin-serve` and `swin-export` on a terminal, drawn by the browser from what the programs write there.

The digests cover the words of the output. Durations, versions and differences change with each run.
"""

import hashlib
import io
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from app.settings import DEMO_BUNDLE
from tests.support.terminal import CONTROL, on_terminal, screen

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "model_export" / "data" / "demo_checkpoint"
DIGESTS = ROOT / "docs" / "images" / "terminal.sha256"
NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e[-+]\d+)?")
# Frames of tables, and bars: their lengths follow from numbers.
DRAWN = re.compile(r"[─█▉▊▋▌▍▎▏]+")


class Picture(NamedTuple):
    """A picture: the program as it is typed, its module, its arguments and the width of the terminal."""

    program: str
    module: str
    arguments: tuple[str, ...]
    columns: int


PICTURES = {
    "terminal-help": Picture("swin-serve", "app", ("--help",), 90),
    "terminal-classify": Picture(
        "swin-serve", "app", ("classify", "seven.png", "four.png", "eight.png", "--top-k", "3"), 64
    ),
    "terminal-build": Picture("swin-export", "model_export", ("build", "./my-fine-tune", "./my-bundle"), 88),
}

PAGE = """\
<!doctype html><meta charset="utf-8"><title>terminal</title><style>
  body {{ margin: 0; }}
  main {{ width: max-content; border-radius: 8px; background: #14181f; overflow: hidden; }}
  header {{ display: flex; gap: 7px; padding: 11px 14px; background: #20262f; }}
  header i {{ width: 11px; height: 11px; border-radius: 50%; background: #4b5563; }}
  pre {{ margin: 0; padding: 14px 20px 18px; color: #dbe2ea;
         font: 14px/1.38 "DejaVu Sans Mono", monospace; font-variant-ligatures: none; }}
  b.prompt {{ color: #7ee787; font-weight: normal; }}
</style><main><header><i></i><i></i><i></i></header><pre><b class="prompt">$</b> {typed}
{output}</pre></main>
"""
# Colors of a dark terminal, in the order of their numbers from black to white.
THEME = TerminalTheme(
    (20, 24, 31),
    (219, 226, 234),
    [
        (20, 24, 31),
        (255, 123, 114),
        (126, 231, 135),
        (242, 204, 96),
        (121, 192, 255),
        (210, 168, 255),
        (86, 212, 221),
        (219, 226, 234),
    ],
)
# Colors of a picture: few enough for a small file, and enough for smooth letters.
COLORS = 128


@contextmanager
def folder_of_a_user() -> Iterator[Path]:
    """Make a folder with a checkpoint and images, for as long as the block runs."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shutil.copytree(CHECKPOINT, folder / "my-fine-tune")
        for image in (DEMO_BUNDLE / "golden").glob("*.png"):
            shutil.copy(image, folder)
        yield folder


def shown(picture: Picture) -> str:
    """Run the program on a terminal. Return the screen at its end, with its colors."""
    with folder_of_a_user() as folder:
        command = [picture.module, *picture.arguments]
        return screen(on_terminal(command, columns=picture.columns, folder=folder, PYTHONPATH=str(ROOT)))


def digest(picture: Picture, text: str) -> str:
    """Return the digest of the command and of the words on its screen."""
    plain = DRAWN.sub("", NUMBER.sub("#", CONTROL.sub("", text)))
    return hashlib.sha256(f"{picture} {' '.join(plain.split())}".encode()).hexdigest()


def stored_digests() -> dict[str, str]:
    """Return the digest of each picture when it was taken."""
    lines = DIGESTS.read_text().splitlines()
    return {name.removesuffix(".png"): digest for digest, name in map(str.split, lines)}


def store_digests(digests: Mapping[str, str]) -> None:
    """Write the digests of the pictures beside them."""
    DIGESTS.write_text("".join(f"{digest}  {name}.png\n" for name, digest in digests.items()))


def take(browser: "Browser", folder: Path) -> Mapping[str, str]:
    """Write the pictures into a folder. Return the digest of each."""
    context = browser.new_context(device_scale_factor=2)
    page = context.new_page()
    digests = dict[str, str]()
    for name, picture in PICTURES.items():
        text = shown(picture)
        page.set_content(_page(picture, text))
        png = page.locator("main").screenshot(omit_background=True)
        # A palette takes a third of the bytes.
        Image.open(io.BytesIO(png)).quantize(COLORS).save(folder / f"{name}.png", optimize=True)
        digests[name] = digest(picture, text)
    context.close()
    return digests


def _page(picture: Picture, text: str) -> str:
    # Without a window around it: rich's own templates load a font from another host.
    console = Console(record=True, width=picture.columns, force_terminal=True, file=io.StringIO())
    console.print(Text.from_ansi(text), soft_wrap=True)
    return PAGE.format(
        typed=escape(" ".join([picture.program, *picture.arguments])),
        output=console.export_html(theme=THEME, inline_styles=True, code_format="{code}").rstrip(),
    )
