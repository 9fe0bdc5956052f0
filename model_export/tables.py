"""What commands print: plain tables, and numbers for people."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table without lines, left-aligned; columns without names have no header. No text is taken for markup."""
    drawn = Table(title=escape(title), title_justify="left", box=box.SIMPLE, show_header=any(columns))
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*map(escape, row))
    return drawn


def percent(share: float) -> str:
    """`0.99722` → `99.72 %`."""
    return f"{100 * share:.2f} %"
