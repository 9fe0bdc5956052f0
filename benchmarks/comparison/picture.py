"""Response time by arrival rate as a picture (SVG), for light and dark pages.

Draws the median and the 99th percentile of each server. Knows nothing about servers or load.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 760, 400

# Frame of the curves, in pixels, below a legend of one row.
LEFT, RIGHT, TOP, BOTTOM = 72, 736, 72, 348

# Pixels of the legend: margin, distance of rows, and width of a letter.
MARGIN, ROW, LETTER = 16, 20, 7.5

PERCENTILES = {"p50_ms": "median", "p99_ms": "99th percentile"}
STYLE = """\
  text { font: 13px system-ui, sans-serif; fill: #57606a }
  .title { font-size: 15px; font-weight: 600; fill: #1f2328 }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  path { fill: none; stroke-width: 2; stroke-linejoin: round }
  .p50_ms { stroke-width: 3 }
  .p99_ms { stroke-dasharray: 5 4 }
  .key { stroke: #57606a }
  circle { stroke: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 } .title { fill: #f0f6fc } .grid { stroke: #3d444d } .key { stroke: #9198a1 }
  }
"""
# Color of each server on a light page and on a dark one.
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

# Maps a value to a coordinate, in pixels.
Scale = Callable[[float], float]


def draw(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an SVG of `p50_ms` and `p99_ms` over `requests_per_second`, for each `server`.

    The scale of milliseconds is logarithmic.
    """
    times = [row[name] for row in rows for name in PERCENTILES]
    lines = _lines(min(times), max(times))
    low, high = lines[0], lines[-1]
    maximum = max(row["requests_per_second"] for row in rows)
    across: Scale = lambda rate: LEFT + rate / maximum * (RIGHT - LEFT)  # noqa: E731 (short, beside its pair)
    down: Scale = lambda ms: BOTTOM - math.log(ms / low) / math.log(high / low) * (BOTTOM - TOP)  # noqa: E731 (likewise)
    servers = list(dict.fromkeys(row["server"] for row in rows))
    legend, rows_of_legend = _legend(servers)
    shift = ROW * (rows_of_legend - 1)
    parts = [
        f'<text class="title" x="{MARGIN}" y="26">{title}</text>',
        *legend,
        f'<g transform="translate(0 {shift})">',
    ]
    parts += _axes(lines, maximum, across, down)
    for number, server in enumerate(servers):
        own = sorted(
            (row for row in rows if row["server"] == server), key=lambda row: float(row["requests_per_second"])
        )
        parts += _curves(number, own, across, down)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT + shift}" width="{WIDTH}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    style = f"<style>\n{STYLE}{_colors(len(servers))}</style>"
    return "\n".join([head, f"<title>{title}</title>", style, *parts, "</g>", "</svg>", ""])


def _colors(servers: int) -> str:
    """Return the style rules of the colors. Colors repeat after the last one."""
    pairs = [COLORS[number % len(COLORS)] for number in range(servers)]
    rules = [
        "".join(
            f"  .s{number} {{ stroke: {pair[page]} }} circle.s{number} {{ fill: {pair[page]} }}\n"
            for number, pair in enumerate(pairs)
        )
        for page in (0, 1)
    ]
    return f"{rules[0]}  @media (prefers-color-scheme: dark) {{\n{rules[1]}  }}\n"


def _lines(minimum: float, maximum: float) -> Sequence[float]:
    """Return grid lines in ms (1, 2, 5, 10, …) that enclose the values."""
    decades = range(math.floor(math.log10(minimum)), math.ceil(math.log10(maximum)) + 1)
    lines = [10.0**decade * step for decade in decades for step in (1, 2, 5)]
    low, high = max(line for line in lines if line <= minimum), min(line for line in lines if line >= maximum)
    return [line for line in lines if low <= line <= high]


def _axes(lines: Sequence[float], maximum: float, across: Scale, down: Scale) -> Iterator[str]:
    for ms in lines:
        yield f'<path class="grid" d="M{LEFT} {down(ms):.1f}H{RIGHT}"/>'
        yield f'<text x="{LEFT - 8}" y="{down(ms) + 4:.1f}" text-anchor="end">{ms:g} ms</text>'
    for rate in _round_steps(maximum):
        yield f'<text x="{across(rate):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{rate:g}</text>'
    yield f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">requests per second</text>'


def _round_steps(maximum: float) -> Iterable[float]:
    """Return about five round numbers from 0 to the maximum."""
    step = 10 ** math.floor(math.log10(maximum / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if maximum / (step * factor) <= 6)  # noqa: PLR2004 (about five)
    return [step * count for count in range(math.floor(maximum / step) + 1)]


def _legend(servers: Sequence[str]) -> tuple[list[str], int]:
    """Return the elements of the legend, and its number of rows."""
    named = [(f"p50_ms s{number}", server) for number, server in enumerate(servers)]
    named += [(f"{name} key", text) for name, text in PERCENTILES.items()]
    parts, left, row = list[str](), float(MARGIN), 0
    for style, text in named:
        width = 50 + LETTER * len(text)
        if left > MARGIN and left + width > WIDTH:
            left, row = MARGIN, row + 1
        y = 46 + ROW * row
        parts.append(f'<path class="{style}" d="M{left} {y}h22"/><text x="{left + 28}" y="{y + 4}">{text}</text>')
        left += width
    return parts, row + 1


def _curves(number: int, rows: Sequence[Mapping[str, Any]], across: Scale, down: Scale) -> Iterator[str]:
    for name in PERCENTILES:
        points = [(across(row["requests_per_second"]), down(row[name])) for row in rows]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        yield f'<path class="{name} s{number}" d="M{line}"/>'
        yield "".join(f'<circle class="s{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
