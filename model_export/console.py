"""Terminal output of the build step: progress lines, tables and percentages."""

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
    """A writer of steps to standard error. On a terminal, the current step has a spinner."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._always = Console(stderr=True, highlight=False)

    def log(self, text: str, *, even_if_quiet: bool = False) -> None:
        """Print an indented line below the current step."""
        console = self._always if even_if_quiet else self._console
        console.print(f"    {escape(text)}", soft_wrap=True)  # a wrapped line would be two lines in a log file

    def log_stage(self, stage: Stage) -> None:
        """Print a verification stage that passed, with its difference and its tolerance."""
        self.log(f"{stage.name:<24} {stage.difference:9.2g} {stage.unit}, {stage.tolerance:.3g} allowed")

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Run a block as a named step. At its end, print its duration and the list that the block filled.

        Raises:
            ExportError: the block raised an exception. An exception of another type is converted, and the message
                begins with the name of the step.
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
    """Return a borderless, left-aligned table. If all column names are empty, the table has no header.

    Texts are escaped, so that rich does not interpret them as markup.
    """
    result = Table(title=escape(title), title_justify="left", box=box.SIMPLE, show_header=any(columns))
    for column in columns:
        result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*map(escape, row))
    return result


def percent(share: float) -> str:
    """Format a share from 0 to 1 in percent: `0.99722` → `99.72 %`."""
    return f"{100 * share:.2f} %"
