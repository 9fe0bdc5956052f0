"""Decoding of a sample of the matrix, compared with libvips and OpenCV. `make fuzz` compares all of it."""

from pathlib import Path

import numpy as np
import pytest

from app.images.decode import FORMATS
from tests.differential.compare import EXCEPTIONS, MATRICES, MAX_DIFFERENCE, are_alike, cases, run

# Kinds of each format, which take seconds all together. For TIFF, this is a thirtieth of all kinds.
COUNTS = {"tiff": 500, "png": 160, "bmp": 160, "gif": 120, "jpeg": 30}

DOCUMENT = (Path(__file__).parents[2] / "docs" / "reference" / "images.md").read_text()


@pytest.mark.parametrize("name", MATRICES)
def test_pixels_are_those_that_the_references_agree_on(name: str) -> None:
    """Every file decodes to the encoded pixels, on which both references agree, or its kind is refused by name."""
    counts, findings = run(name, COUNTS[name], seed=1)

    assert [f"{finding.case.name}: {finding.what}" for finding in findings] == []
    assert counts.total() == min(COUNTS[name], counts.total())


def test_the_references_agree_often_enough() -> None:
    """Both references read most kinds of PNG and agree, so the comparison is worth something."""
    counts, _ = run("png", 80, seed=2)

    assert counts["agreed"] > 40


def test_every_exception_is_documented() -> None:
    """The exceptions and reasons in the documentation are those of the comparison."""
    rows = [f"| {title} | {rule.reason} |" for title, rule in EXCEPTIONS.items()]
    begin = DOCUMENT.index("| kind | reason |")
    table = DOCUMENT[begin:].partition("\n\n")[0].strip().splitlines()

    assert table == ["| kind | reason |", "| --- | --- |", *rows]


def test_every_format_is_documented() -> None:
    """The documentation has a row for each supported format."""
    assert [name for name in FORMATS if f"| {name.upper().replace('WEBP', 'WebP')} |" not in DOCUMENT] == []


def test_a_difference_is_seen() -> None:
    """Pixels with a mean difference above the limit, or turned pixels, are not alike."""
    shown = next(cases("png", 1)).shown.astype(int)

    assert are_alike(shown, shown)
    assert not are_alike(shown, shown + MAX_DIFFERENCE + 1)
    assert not are_alike(shown, np.rot90(shown))
