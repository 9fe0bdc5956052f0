"""Tests of the pictures of latency against load."""

import io
import math
import re
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from app.load.picture import COLORS, SHAPES, Picture, Point, Series, draw

NAMESPACE = "{http://www.w3.org/2000/svg}"
POINTS = [Point(10, 5, 20), Point(20, 6, 30), Point(30, 8, 60)]
OVERLOADED = Point(40, 90, 400, is_overloaded=True)


def svg(picture: Picture) -> ET.Element:
    return ET.fromstring(picture.svg())  # noqa: S314 (trusted input)


def texts(picture: Picture) -> list[str]:
    return [each.text or "" for each in svg(picture).iter(f"{NAMESPACE}text")]


def shapes(picture: Picture) -> list[ET.Element]:
    """Return the marks of points, without those of the legend."""
    picture_svg = svg(picture)
    height = float(picture_svg.attrib["viewBox"].split()[-1])
    uses = picture_svg.iter(f"{NAMESPACE}use")
    return [each for each in uses if float(each.attrib["y"]) < height - 36]  # points: the axes end above the legend


def outlines(picture: Picture) -> set[str]:
    """Return the outlines of the marks, without their sizes."""
    paths = {each.attrib.get("id"): each.attrib["d"] for each in svg(picture).iter(f"{NAMESPACE}path")}
    return {re.sub(r"[^A-Za-z]", "", paths[mark.attrib["href"].removeprefix("#")]) for mark in shapes(picture)}


def test_a_picture_names_title_units_series_and_percentiles() -> None:
    """The texts are text: title, axes with units, the name of each series, and both percentiles."""
    found = texts(draw("A title", [Series("one", POINTS), Series("two", POINTS)]))

    expected = {"A title", "requests per second", "latency in ms (logarithmic)", "one", "two"}
    assert expected | {"median", "99th percentile"} <= set(found)


def test_a_picture_is_accessible() -> None:
    """The SVG is an image with the title as its name."""
    picture = svg(draw("A <title>", [Series("one", POINTS)]))

    assert picture.attrib["role"] == "img"
    assert picture[0].tag == f"{NAMESPACE}title"
    assert picture[0].text == "A <title>"


def test_names_are_neither_markup_nor_formulas() -> None:
    """A hostile name is shown as it is, without control characters: no element, no formula, not left out."""
    names = ["<script>alert(1)</script>", "$\\frac{1}$", "_hidden", '"&amp;', "a\x1b[2Jb"]

    picture = draw("$x_1$", [Series(name, POINTS) for name in names])

    assert {*names[:-1], "a\\x1b[2Jb", "$x_1$"} <= set(texts(picture))
    assert not list(svg(picture).iter(f"{NAMESPACE}script"))
    assert picture.png()


def test_a_picture_refers_to_nothing_else() -> None:
    """The SVG has no address but the name of its namespace, no date, and no script."""
    text = draw("A title", [Series("one", POINTS)]).svg()

    assert re.findall(r"https?:[^\"']*", text) == [NAMESPACE.strip("{}")]
    assert "date" not in text
    assert "<?" not in text
    assert "<!" not in text


def test_the_same_points_are_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """SVG and PNG are equal for equal points, and the settings of the user do not change them."""
    first = draw("A title", [Series("one", POINTS)])
    before = first.svg(), first.png()
    monkeypatch.setitem(mpl.rcParams, "font.size", 30)
    monkeypatch.setitem(mpl.rcParams, "xtick.labelsize", 30)

    again = draw("A title", [Series("one", POINTS)])

    assert (again.svg(), again.png()) == before


def test_the_settings_of_matplotlib_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that draws other pictures keeps its own settings."""
    monkeypatch.setitem(mpl.rcParams, "font.size", 30)

    draw("A title", [Series("one", POINTS)]).png()

    assert mpl.rcParams["font.size"] == 30


def test_colors_follow_the_page() -> None:
    """No color is fixed: each is a variable with a value for light pages and one for dark pages."""
    text = draw("A title", [Series("one", POINTS)], slo_ms=50).svg()

    style, _, body = text.partition("</style>")
    assert not re.search(r"(?:fill|stroke): #", body)
    used = set(re.findall(r"var\((--[\w-]+)\)", body))
    assert used == {"--ink", "--quiet", "--grid", "--limit", "--series-0"}
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    assert all(f"{name}: #" in light and f"{name}: #" in dark for name in used)


@pytest.mark.parametrize(
    ("percentile", "name"), [(99, "99th"), (99.9, "99.9th"), (95, "95th"), (92, "92nd"), (91, "91st"), (13, "13th")]
)
def test_the_percentile_is_named(percentile: float, name: str) -> None:
    """The legend names the dashed curves, and the line of the objective has the same percentile."""
    found = texts(draw("A title", [Series("one", POINTS)], slo_ms=50, percentile=percentile))

    assert f"{name} percentile" in found
    assert f"p{percentile:g} = 50 ms" in found


def test_nine_series_are_told_apart_by_color_and_shape() -> None:
    """On both pages, nine series have distinct colors. Their shapes differ, too."""
    for page in (0, 1):
        colors = [np.array(mpl.colors.to_rgb(pair[page])) for pair in COLORS]
        assert min(float(np.abs(one - other).sum()) for one, other in combinations(colors, 2)) > 0.2
    assert len(set(SHAPES)) == len(COLORS) == 9


def test_all_points_are_drawn_inside_the_axes() -> None:
    """Each point has a mark for each percentile, above the legend."""
    marks = shapes(draw("A title", [Series("one", POINTS)]))

    places = [(float(mark.attrib["x"]), float(mark.attrib["y"])) for mark in marks]
    assert len(places) == 6
    assert [x for x, _ in places] == sorted(x for x, _ in places[:3]) * 2
    assert all(y_of_p99 < y_of_p50 for (_, y_of_p50), (_, y_of_p99) in zip(places[:3], places[3:], strict=True))
    assert all(50 < x < 547 and 20 < y < 240 for x, y in places)


def test_overload_has_a_mark_of_its_own() -> None:
    """Points with refused or lost requests have another shape, which the legend explains."""
    calm, busy = (draw("A title", [Series("one", points)]) for points in (POINTS, [*POINTS, OVERLOADED]))

    assert "overload, or requests without an answer" not in texts(calm)
    assert "overload, or requests without an answer" in texts(busy)
    assert len(outlines(calm)) == 1
    assert len(outlines(busy)) == 2


def test_the_objective_is_a_line_with_its_value() -> None:
    """The objective for the 99th percentile is named, also above all latencies."""
    assert "p99 = 500 ms" in texts(draw("A title", [Series("one", POINTS)], slo_ms=500))
    assert "500" in texts(draw("A title", [Series("one", POINTS)], slo_ms=500))  # a label of the scale


@pytest.mark.parametrize("points", [[], [Point(0, math.nan, math.nan, is_overloaded=True)]])
def test_a_service_without_an_answer_has_a_picture(points: list[Point]) -> None:
    """If no request was answered, the picture says so."""
    assert "no request was answered" in texts(draw("A title", [Series("one", points)]))


def test_a_single_point_of_one_latency_has_a_picture() -> None:
    """Equal latencies, on a line of the grid, have a scale around them."""
    marks = shapes(draw("A title", [Series("one", [Point(10, 5, 5)])]))

    assert all(20 < float(mark.attrib["y"]) < 240 for mark in marks)
    assert len(marks) == 2


def test_names_of_many_series_fit() -> None:
    """The legend takes as many rows as the names need: the picture grows, and no row overlaps another."""
    names = [f"a server with the long name number {number}" for number in range(9)]

    picture = svg(draw("A title", [Series(name, POINTS) for name in names]))

    height = float(picture.attrib["viewBox"].split()[-1])
    assert height > float(svg(draw("A title", [Series("one", POINTS)])).attrib["viewBox"].split()[-1])
    places = sorted(
        (float(text.attrib["x"]), float(text.attrib["y"]))
        for text in picture.iter(f"{NAMESPACE}text")
        if text.text in names
    )
    assert len(places) == 9
    assert max(y for _, y in places) < height
    rows = sorted({round(y, 3) for _, y in places})
    assert min(below - above for above, below in pairwise(rows)) > 9.5


def test_a_png_is_light_and_sharp() -> None:
    """The PNG has white ground, and two pixels for each of the SVG."""
    image = Image.open(io.BytesIO(draw("A title", [Series("one", POINTS)]).png()))

    assert image.format == "PNG"
    assert image.size[0] == 1520
    assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
