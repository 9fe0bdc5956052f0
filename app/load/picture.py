"""Pictures of latency against load, as PNG and as SVG for light and dark pages. Measures nothing."""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from app.validation_messages import shorten

# Size of the axes with their labels, and height of a row of the legend below, in inches.
WIDTH, HEIGHT, ROW, PIXELS_PER_INCH = 7.6, 3.75, 0.2, 100

# Frame of the curves: distances from the left, the right, the top, and the legend, in inches.
LEFT, RIGHT, TOP, BOTTOM = 0.72, 0.12, 0.36, 0.5

# Width in pixels of a letter in the legend, and of the line beside the letters with its margin.
LETTER, KEY = 7, 60

# Color on a light page, and on a dark one. In the SVG, a variable replaces the first, so all first colors differ.
INK, QUIET, GRID, LIMIT = ("#1f2328", "#f0f6fc"), ("#57606a", "#9198a1"), ("#d0d7de", "#3d444d"), ("#cf222e", "#ff7b72")
COLORS = (
    ("#d9480f", "#ff8c42"),
    ("#1c6fd1", "#6cb0ff"),
    ("#1a8a5a", "#4fd39a"),
    ("#8e44ad", "#d2a8ff"),
    ("#b8860b", "#e3b341"),
    ("#c2255c", "#ff7eb6"),
    ("#0b8a9e", "#56d4dd"),
    ("#795548", "#c8a48f"),
    ("#6b7280", "#a3aab5"),
)
# Endings of ordinal numbers, by the last digit.
ENDINGS: Mapping[float, str] = {1: "st", 2: "nd", 3: "rd"}

# Shapes tell series apart without their colors.
SHAPES, OVERLOADED = "os^DvphP*", "X"

MEDIAN, DASHES = "median", (0, (4, 2.5))

# The fonts of the page, which are no wider than the font that matplotlib measures.
FONTS = "system-ui, sans-serif"

# Size of letters, in points.
FONT_SIZE = 9.5


@dataclass(frozen=True)
class Point:
    """The latencies at one rate. NaN for a rate at which no request was answered: it is not drawn."""

    requests_per_second: float
    p50_ms: float
    tail_ms: float  # a high percentile
    is_overloaded: bool = False  # some requests had no answer with 200, or arrived faster than they were answered


@dataclass(frozen=True)
class Series:
    """The points of one service, in the order of their load: a line connects them."""

    name: str
    points: Sequence[Point]


class Picture:
    """A picture that has been drawn."""

    def __init__(self, title: str, figure: Figure) -> None:
        self._title, self._figure = title, figure

    def png(self) -> bytes:
        """Return the picture on white ground, with two pixels for each of its size."""
        content = io.BytesIO()
        with _style():
            self._figure.savefig(content, format="png", metadata={"Software": None})
        return content.getvalue()

    def svg(self) -> str:
        """Return an SVG without ground. Its colors follow the page. HTML can hold it, too."""
        content = io.StringIO()
        with _style():
            self._figure.savefig(
                content, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
            )
        text = content.getvalue()
        body = text[text.index(">", text.index("<svg")) + 1 :]
        body = re.sub(r' id="[\w.]+_\d+"', "", body)  # names of groups, of which a page may hold several
        body = body.replace("xlink:href", "href").replace(">*{", ">.latency *{")
        body = re.sub(r"'DejaVu Sans'[^;\"]*", FONTS, body)
        for name, (light, _) in _variables():
            body = body.replace(light, f"var({name})")
        width, height = self._figure.get_size_inches()
        size = f'viewBox="0 0 {width * 72:g} {height * 72:g}" width="{width * PIXELS_PER_INCH:g}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" class="latency" {size} role="img">'
        return "\n".join([head, f"<title>{escape(self._title)}</title>", _rules(), body.strip(), ""])


def draw(title: str, series: Sequence[Series], slo_ms: float | None = None, percentile: float = 99) -> Picture:
    """Draw the median and the tail of each series over its rate. The scale of latencies is logarithmic.

    Args:
        title: of the picture.
        series: the latencies.
        slo_ms: the objective for the tail, which is drawn as a line.
        percentile: that the tails are.
    """
    title = shorten(title)
    with _style():
        shown = [_drawable(each.points) for each in series]
        points = [point for own in shown for point in own]
        figure = Figure(dpi=2 * PIXELS_PER_INCH)
        rows = _legend(figure, [each.name for each in series], points, percentile)
        height = HEIGHT + ROW * rows
        figure.set_size_inches(WIDTH, height)
        bottom = BOTTOM + ROW * rows
        axes = figure.add_axes((LEFT / WIDTH, bottom / height, 1 - (LEFT + RIGHT) / WIDTH, 1 - (TOP + bottom) / height))
        _frame(axes, title, points, slo_ms)
        if slo_ms is not None:
            _objective(axes, slo_ms, percentile)
        for number, own in enumerate(shown):
            _curves(axes, number, own)
    return Picture(title, figure)


@contextmanager
def _style() -> Iterator[None]:
    """Use the defaults of matplotlib, without the user's settings."""
    with mpl.rc_context(), warnings.catch_warnings():
        # A name can have letters that the font lacks. The reader of an SVG has other fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams["font.size"] = FONT_SIZE
        mpl.rcParams["svg.fonttype"] = "none"  # text stays text
        mpl.rcParams["svg.hashsalt"] = "swin"  # the same picture is the same file
        yield


def _drawable(points: Sequence[Point]) -> list[Point]:
    """Return the points without those that have no place on a logarithmic scale."""
    return [point for point in points if point.p50_ms > 0 and math.isfinite(point.tail_ms)]


def _frame(axes: Axes, title: str, points: Sequence[Point], slo_ms: float | None) -> None:
    """Set title, units, grid and limits of the axes."""
    axes.set_title(title, loc="left", color=INK[0], fontsize=11, fontweight="bold", parse_math=False)
    axes.set_xlabel("requests per second", color=QUIET[0])
    axes.set_ylabel("latency in ms (logarithmic)", color=QUIET[0])
    axes.yaxis.set_label_coords(-0.085, 0.5)
    axes.spines[:].set_visible(False)
    axes.grid(visible=True, color=GRID[0], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=QUIET[0])
    axes.set_yscale("log")
    times = [time for point in points for time in (point.p50_ms, point.tail_ms)]
    lines = _lines([*times, *([] if slo_ms is None else [slo_ms])] or [1, 1000])
    axes.set_ylim(lines[0], lines[-1])
    axes.set_yticks(lines)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0, 1.04 * max((point.requests_per_second for point in points), default=1))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    if not points:
        axes.text(0.5, 0.5, "no request was answered", transform=axes.transAxes, ha="center", va="center", color=INK[0])


def _objective(axes: Axes, slo_ms: float, percentile: float) -> None:
    axes.axhline(slo_ms, color=LIMIT[0], linewidth=1.2)
    axes.annotate(
        f"p{percentile:g} = {slo_ms:g} ms",
        (0, slo_ms),  # at the left, where curves are low
        (4, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        color=LIMIT[0],
    )


def _lines(times: Sequence[float]) -> Sequence[float]:
    """Return grid lines in ms (1, 2, 5, 10, …) that enclose the times, with a decade each if they are many."""
    decades = range(math.floor(math.log10(min(times))), math.ceil(math.log10(max(times))) + 1)
    steps = (1, 2, 5) if len(decades) <= 5 else (1,)  # noqa: PLR2004 (more labels would touch each other)
    lines = [10.0**decade * step for decade in decades for step in steps]
    low, high = max(line for line in lines if line <= min(times)), min(line for line in lines if line >= max(times))
    return [line for line in lines if low <= line <= high] if low < high else [low / 2, low, low * 2]


def _curves(axes: Axes, number: int, points: Sequence[Point]) -> None:
    color, shape = _look(number)
    rates = [point.requests_per_second for point in points]
    latencies: Sequence[tuple[Callable[[Point], float], float, object]] = (
        (lambda point: point.p50_ms, 2.2, "solid"),
        (lambda point: point.tail_ms, 1.4, DASHES),
    )
    for of, width, dashes in latencies:
        times = [of(point) for point in points]
        axes.plot(rates, times, color=color, linewidth=width, linestyle=dashes)
        for is_overloaded, marker, size in ((False, shape, 4.5), (True, OVERLOADED, 9)):
            marked = [point for point in points if point.is_overloaded == is_overloaded]
            axes.plot(
                [point.requests_per_second for point in marked],
                [of(point) for point in marked],
                color=color,
                linestyle="none",
                marker=marker,
                markersize=size,
                markeredgewidth=0,
                clip_on=False,
            )


def _ordinal(number: float) -> str:
    """Return a number such as 99 or 99.9 as a place in an order: 99th."""
    is_teen = 10 < number < 14  # noqa: PLR2004 (11th, 12th and 13th)
    return f"{number:g}{'th' if is_teen else ENDINGS.get(number % 10, 'th')}"


def _legend(figure: Figure, names: Sequence[str], points: Sequence[Point], percentile: float) -> int:
    """Draw the legend at the bottom. Return its number of rows."""
    keys = list[tuple[str, Line2D]]()
    for number, name in enumerate(names):
        color, shape = _look(number)
        keys.append((shorten(name), Line2D([], [], color=color, linewidth=2.2, marker=shape, markersize=4.5)))
    keys.append((MEDIAN, Line2D([], [], color=QUIET[0], linewidth=2.2)))
    keys.append((f"{_ordinal(percentile)} percentile", Line2D([], [], color=QUIET[0], linewidth=1.4, linestyle=DASHES)))
    if any(point.is_overloaded for point in points):
        cross = Line2D([], [], color=QUIET[0], linestyle="none", marker=OVERLOADED, markersize=9, markeredgewidth=0)
        keys.append(("overload, or requests without an answer", cross))
    columns = max(int(WIDTH * PIXELS_PER_INCH / (KEY + LETTER * max(len(text) for text, _ in keys))), 1)
    legend = figure.legend(
        [key for _, key in keys],
        ["?"] * len(keys),  # matplotlib would leave out a name that begins with an underscore
        loc="lower center",
        ncols=columns,
        frameon=False,
        borderaxespad=0,
        labelspacing=0.4,
        handlelength=2.6,
        labelcolor=QUIET[0],
    )
    for shown, (text, _) in zip(legend.get_texts(), keys, strict=True):
        shown.set_parse_math(False)  # a name with dollar signs is no formula
        shown.set_text(text)
    return math.ceil(len(keys) / columns)


def _look(number: int) -> tuple[str, str]:
    """Return color and shape of a series. They repeat after the last one."""
    return COLORS[number % len(COLORS)][0], SHAPES[number % len(SHAPES)]


def _variables() -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the variables of the SVG, each with its color on a light page and on a dark one."""
    yield from {"--ink": INK, "--quiet": QUIET, "--grid": GRID, "--limit": LIMIT}.items()
    for number, pair in enumerate(COLORS):
        yield f"--series-{number}", pair


def _rules() -> str:
    light, dark = (
        f".latency {{ {'; '.join(f'{name}: {pair[page]}' for name, pair in _variables())} }}" for page in (0, 1)
    )
    return f"<style>\n{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n</style>"
