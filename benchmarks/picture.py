"""Latency against load as a picture (SVG): median and 99th percentile of each server, on a light or a dark page."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 72, 736, 72, 348
"""The frame of the curves."""

PERCENTILES = {"p50_ms": "median", "p99_ms": "99th percentile"}
STYLE = """\
  text { font: 13px system-ui, sans-serif; fill: #57606a }
  .title { font-size: 15px; font-weight: 600; fill: #1f2328 }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  path { fill: none; stroke-width: 2; stroke-linejoin: round }
  .p50_ms { stroke-width: 3 }
  .p99_ms { stroke-dasharray: 5 4 }
  .key { stroke: #57606a }
  .s0 { stroke: #d9480f } .s1 { stroke: #1c6fd1 } .s2 { stroke: #1a8a5a } .s3 { stroke: #8e44ad }
  circle { stroke: none } circle.s0 { fill: #d9480f } circle.s1 { fill: #1c6fd1 }
  circle.s2 { fill: #1a8a5a } circle.s3 { fill: #8e44ad }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 } .title { fill: #f0f6fc } .grid { stroke: #3d444d } .key { stroke: #9198a1 }
    .s0 { stroke: #ff8c42 } .s1 { stroke: #6cb0ff } .s2 { stroke: #4fd39a } .s3 { stroke: #d2a8ff }
    circle.s0 { fill: #ff8c42 } circle.s1 { fill: #6cb0ff } circle.s2 { fill: #4fd39a } circle.s3 { fill: #d2a8ff }
  }
"""
Place = Callable[[float], float]


def draw(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Curves of `p50_ms` and `p99_ms` over `requests_per_second`, by `server`; milliseconds on a logarithmic scale."""
    times = [row[name] for row in rows for name in PERCENTILES]
    lines = _lines(min(times), max(times))
    low, high = lines[0], lines[-1]
    most = max(row["requests_per_second"] for row in rows)
    across: Place = lambda rate: LEFT + rate / most * (RIGHT - LEFT)  # noqa: E731 (one of a pair)
    down: Place = lambda ms: BOTTOM - math.log(ms / low) / math.log(high / low) * (BOTTOM - TOP)  # noqa: E731 (the other)
    servers = list(dict.fromkeys(row["server"] for row in rows))
    parts = [*_axes(lines, most, across, down), *_legend(servers), f'<text class="title" x="16" y="26">{title}</text>']
    for number, server in enumerate(servers):
        own = sorted(
            (row for row in rows if row["server"] == server), key=lambda row: float(row["requests_per_second"])
        )
        parts += _curves(number, own, across, down)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">'
    return "\n".join([head, f"<title>{title}</title>", f"<style>\n{STYLE}</style>", *parts, "</svg>", ""])


def _lines(least: float, most: float) -> Sequence[float]:
    """Milliseconds at which there are lines: 1, 2, 5, 10, …, the first below all values and the last above."""
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    lines = [10.0**decade * step for decade in decades for step in (1, 2, 5)]
    low, high = max(line for line in lines if line <= least), min(line for line in lines if line >= most)
    return [line for line in lines if low <= line <= high]


def _axes(lines: Sequence[float], most: float, across: Place, down: Place) -> Iterator[str]:
    for ms in lines:
        yield f'<path class="grid" d="M{LEFT} {down(ms):.1f}H{RIGHT}"/>'
        yield f'<text x="{LEFT - 8}" y="{down(ms) + 4:.1f}" text-anchor="end">{ms:g} ms</text>'
    for rate in _round_steps(most):
        yield f'<text x="{across(rate):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{rate:g}</text>'
    yield f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">requests a second</text>'


def _round_steps(most: float) -> Iterable[float]:
    """Some five round numbers from 0 on."""
    step = 10 ** math.floor(math.log10(most / 5))
    step *= next(factor for factor in (1, 2, 5, 10) if most / (step * factor) <= 6)  # noqa: PLR2004 (some five)
    return [step * count for count in range(math.floor(most / step) + 1)]


def _legend(servers: Sequence[str]) -> Iterator[str]:
    left = 16.0
    for number, server in enumerate(servers):
        yield f'<path class="p50_ms s{number}" d="M{left} 46h22"/><text x="{left + 28}" y="50">{server}</text>'
        left += 50 + 7.5 * len(server)
    for name, said in reversed(PERCENTILES.items()):
        left = WIDTH - (280 if name == "p50_ms" else 176)
        yield f'<path class="{name} key" d="M{left} 46h22"/><text x="{left + 28}" y="50">{said}</text>'


def _curves(number: int, rows: Sequence[Mapping[str, Any]], across: Place, down: Place) -> Iterator[str]:
    for name in PERCENTILES:
        points = [(across(row["requests_per_second"]), down(row[name])) for row in rows]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        yield f'<path class="{name} s{number}" d="M{line}"/>'
        yield "".join(f'<circle class="s{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
