"""Terminal output of the build step: progress, tables, and numbers for people."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.bundle.manifest import Stage
from app.errors import sentence
from model_export.errors import ExportError


class Progress:
    """Writes to standard error; on a terminal, the step in progress has a spinner."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._always = Console(stderr=True, highlight=False)

    def detail(self, text: str, *, even_if_quiet: bool = False) -> None:
        """A line inside a step."""
        console = self._always if even_if_quiet else self._console
        console.print(f"    {escape(text)}", soft_wrap=True)  # a log keeps a sentence in one line

    def stage(self, stage: Stage) -> None:
        """A stage of a proof that passed, with its difference and what was allowed."""
        self.detail(f"{stage.name:<24} {stage.difference:9.2g} {stage.unit}, {stage.tolerance:.3g} allowed")

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Run a block under a name. What the block appends to the list is shown when it is done.

        Raises:
            ExportError: as it was raised inside, or naming the step for anything else that was.
        """
        notes: list[str] = []
        started = time.perf_counter()
        try:
            with self._console.status(escape(name)):
                yield notes
        except ExportError:
            self._console.print(f"[red]✗[/red] {escape(name)}")
            raise
        except OSError as error:
            self._console.print(f"[red]✗[/red] {escape(name)}")
            place = f"{error.filename}: " if error.filename else ""
            raise ExportError(f"{name}: {place}{error.strerror or sentence(error)}") from error
        except Exception as error:
            self._console.print(f"[red]✗[/red] {escape(name)}")
            raise ExportError(f"{name}: {type(error).__name__}: {sentence(error)}") from error
        seconds = time.perf_counter() - started
        self._console.print(
            f"[green]✓[/green] {escape(name):<28} {seconds:6.1f} s  {escape(', '.join(notes))}", soft_wrap=True
        )


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
