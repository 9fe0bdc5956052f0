"""Generated images of every kind show what libvips and OpenCV agree on; `make fuzz` compares all of them."""

from pathlib import Path

import numpy as np
import pytest

from app.images.decode import FORMATS
from tests.differential.compare import EXCEPTIONS, FARTHEST, MATRICES, are_alike, cases, run

COUNTS = {"tiff": 500, "png": 160, "bmp": 160, "gif": 120, "jpeg": 30}
"""Seconds all together. Of the TIFFs this is a thirtieth."""

DOCUMENT = (Path(__file__).parents[2] / "docs" / "reference" / "images.md").read_text()


@pytest.mark.parametrize("name", MATRICES)
def test_pixels_are_those_that_the_references_agree_on(name: str) -> None:
    """Every file is decoded to what was encoded and what both references show, or its kind is refused by name."""
    counts, findings = run(name, COUNTS[name], seed=1)

    assert [f"{finding.case.name}: {finding.what}" for finding in findings] == []
    assert counts.total() == min(COUNTS[name], counts.total())


def test_the_references_agree_often_enough() -> None:
    """The comparison compares: for PNG, both references read most kinds and agree."""
    counts, _ = run("png", 80, seed=2)

    assert counts["agreed"] > 40


def test_every_exception_is_documented() -> None:
    """The table of exceptions in the documentation is the one that the comparison uses, reasons included."""
    rows = [f"| {title} | {rule.reason} |" for title, rule in EXCEPTIONS.items()]
    begin = DOCUMENT.index("| kind | reason |")
    table = DOCUMENT[begin:].partition("\n\n")[0].strip().splitlines()

    assert table == ["| kind | reason |", "| --- | --- |", *rows]


def test_every_format_is_documented() -> None:
    """The list of formats that are read has one row for each of them."""
    assert [name for name in FORMATS if f"| {name.upper().replace('WEBP', 'WebP')} |" not in DOCUMENT] == []


def test_a_difference_is_seen() -> None:
    """Pixels that are off by more than the bound in the mean, or turned, are not alike."""
    shown = next(cases("png", 1)).shown.astype(int)

    assert are_alike(shown, shown)
    assert not are_alike(shown, shown + FARTHEST + 1)
    assert not are_alike(shown, np.rot90(shown))
