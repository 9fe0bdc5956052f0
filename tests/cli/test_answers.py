"""Answers as a table, as lines with tabs, and as JSON."""

import io
import json
import re
import sys
from pathlib import Path

import pytest

from app.classification.classifier import Prediction
from app.cli.answers import Answer, shown_on

SEVEN = Answer(
    "seven.png", [Prediction(7, "seven", 0.91524), Prediction(9, "nine", 0.03)], Path("e/seven.evidence.png")
)
BAD = Answer("bad.png", error="The image is bad.")
# Sequences that set a color of the text or of its background.
COLOR = re.compile(r"\x1b\[[\d;]*3\d[\d;]*m")


class Terminal(io.StringIO):
    """A terminal that keeps what is written."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class OldTerminal(Terminal):
    """A terminal without block characters."""

    encoding = "ascii"


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Terminals have colors and 80 columns, whatever runs the tests."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")


def shown(out: io.StringIO, *answers: Answer, as_json: bool = False) -> str:
    """Return what is written."""
    with shown_on(out, as_json=as_json) as show:
        for answer in answers:
            show(answer)
    return out.getvalue()


def words(text: str) -> list[str]:
    """Return the words of each line that has some, without control sequences and frames."""
    lines = [re.sub(r"\x1b\[[\d;]*m|[─█▉▊▋▌▍▎▏]", "", line).split() for line in text.splitlines()]
    return [" ".join(line) for line in lines if line]


def test_elsewhere_each_class_is_a_line() -> None:
    """Image, index, label and score are separated by tabs, and there is no color and no head."""
    assert shown(io.StringIO(), SEVEN, BAD) == "seven.png\t7\tseven\t0.9152\nseven.png\t9\tnine\t0.0300\n"


def test_lines_are_written_at_once() -> None:
    """A program that reads the lines has the first one before the second image is classified."""
    out = io.StringIO()
    with shown_on(out, as_json=False) as show:
        show(SEVEN)
        assert out.getvalue().startswith("seven.png\t7")


@pytest.mark.parametrize("out", [io.StringIO(), Terminal()])
def test_json_has_a_line_for_each_image(out: io.StringIO) -> None:
    """A line has the classes and the picture, or the error, also on a terminal."""
    first, second = map(json.loads, shown(out, SEVEN, BAD, as_json=True).splitlines())

    assert first["predictions"] == [
        {"index": 7, "label": "seven", "score": 0.91524},
        {"index": 9, "label": "nine", "score": 0.03},
    ]
    assert (first["image"], first["evidence"]) == ("seven.png", "e/seven.evidence.png")
    assert second == {"image": "bad.png", "error": "The image is bad."}


@pytest.mark.parametrize("as_json", [False, True])
def test_a_name_cannot_break_a_line(*, as_json: bool) -> None:
    """Tabs, line breaks, control sequences and bytes that are not UTF-8 are escaped."""
    answer = Answer("a\tb\n\udcff", [Prediction(0, "\x1b[31mred", 1.0)])

    text = shown(io.StringIO(), answer, as_json=as_json)
    assert text.isascii()
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    assert text.count("\t") == (0 if as_json else 3)


def test_a_terminal_shows_a_table() -> None:
    """The name of the image is in its first row only, and images without an answer are not there."""
    text = shown(Terminal(), SEVEN, BAD)

    assert words(text) == ["image index label score", "seven.png 7 seven 0.9152", "9 nine 0.0300"]
    assert "█" in text
    assert COLOR.search(text)


def test_no_color_is_honored(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR the table is the same, without colors."""
    monkeypatch.setenv("NO_COLOR", "1")

    text = shown(Terminal(), SEVEN)
    assert words(text)[1] == "seven.png 7 seven 0.9152"
    assert not COLOR.search(text)


def test_a_terminal_without_blocks_shows_no_bars() -> None:
    """If the encoding of the terminal is not UTF-8, the table has ASCII only."""
    assert shown(OldTerminal(), SEVEN).isascii()


def test_markup_is_text() -> None:
    """A label in brackets is not a style."""
    assert "[bold]" in shown(Terminal(), Answer("a.png", [Prediction(0, "[bold]", 1.0)]))


def test_a_table_shows_what_was_done_before_a_failure() -> None:
    """If the work ends early, the answers so far are shown."""
    out = Terminal()
    showing = shown_on(out, as_json=False)
    showing.__enter__()(SEVEN)
    showing.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    assert "seven.png" in out.getvalue()


def test_without_rich_the_table_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has aligned columns without colors."""
    monkeypatch.setitem(sys.modules, "rich", None)  # as if it were not installed

    assert shown(Terminal(), SEVEN).splitlines() == [
        "image      index  label  score",
        "seven.png  7      seven  0.9152",
        "seven.png  9      nine   0.0300",
    ]


def test_no_answer_is_no_table() -> None:
    """If no image has an answer, nothing is written."""
    assert shown(Terminal(), BAD) == ""
