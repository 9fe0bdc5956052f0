"""The report of a measurement: one HTML file without scripts, for light and dark pages. Measures nothing."""

from collections.abc import Mapping, Sequence
from html import escape

from app.load.figures import Table
from app.validation_messages import printable

METHOD = (
    "In a closed loop, each client sends its next request when it has the response to the one before. In an open loop, "
    "requests arrive as a Poisson process, whether or not earlier ones have ended, and a latency counts from the "
    "arrival, so a stall of the service delays all requests that arrive during the stall."
)
# The page may load nothing, and run nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """\
:root { color-scheme: light dark; --paper: #ffffff; --text: #1f2328; --faint: #57606a; --line: #d0d7de }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --text: #f0f6fc; --faint: #9198a1; --line: #3d444d } }
body { margin: 0 auto; padding: 16px; max-width: 832px; background: var(--paper); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 22px; line-height: 28px; overflow-wrap: anywhere } h2 { font-size: 17px; margin: 32px 0 8px }
svg { display: block; width: 100%; height: auto }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th { color: var(--faint); font-weight: 500 }
th.words, td.words { text-align: left; white-space: normal }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px; margin: 0 }
dt { color: var(--faint) } dd { margin: 0; overflow-wrap: anywhere }
@media (max-width: 480px) { dl { display: block } dd { margin-bottom: 8px } }
"""


def report(title: str, svg: str, tables: Sequence[Table], remarks: Sequence[str], facts: Mapping[str, str]) -> str:
    """Return the page: the picture, the tables, the remarks on them, how they were measured, and the facts."""
    parts = [f"<h1>{_text(title)}</h1>", svg.replace(' xmlns="http://www.w3.org/2000/svg"', "")]  # HTML needs no name
    parts += [f"<p><strong>{_text(remark)}</strong></p>" for remark in remarks]
    for table in tables:
        parts.append(f"<h2>{_text(_capital(table.title))}</h2>\n<div class=wide>{_table(table)}</div>")
    rows = "\n".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items())
    parts += ["<h2>How it was measured</h2>", f"<p>{METHOD}</p>", f"<dl>\n{rows}\n</dl>"]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            f"<title>{_text(title)}</title>",
            f"<style>\n{STYLE}</style>",
            *parts,
            "</html>",
            "",
        ]
    )


def _table(table: Table) -> str:
    kinds = [" class=words" if place in table.texts else "" for place in range(len(table.head))]
    head = "".join(f'<th{kind} scope="col">{_text(cell)}</th>' for kind, cell in zip(kinds, table.head, strict=True))
    rows = "\n".join(
        f"<tr>{''.join(f'<td{kind}>{_text(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))}</tr>"
        for row in table.rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"


def _text(text: str) -> str:
    """Return a text for HTML. Names come from the service and from files."""
    return escape(printable(text))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
