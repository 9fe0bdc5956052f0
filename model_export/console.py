"""Terminal output of the build step: progress lines, tables and percentages."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from app.bundle.manifest import Stage
from app.errors import sentence
from model_export.errors import ExportError

# Columns of a console that is not a terminal: more than any table needs, so that rich folds no cell.
UNLIMITED = 10_000


def open_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console for standard output or standard error. In a pipe, each row of a table is one line."""
    console = Console(stderr=stderr, quiet=quiet, highlight=False)
    if not console.is_terminal:
        console.width = UNLIMITED
    return console


class Progress:
    """A writer of steps to standard error. On a terminal, the current step has a spinner."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console, self._always = open_console(stderr=True, quiet=quiet), open_console(stderr=True)

    def log(self, text: str) -> None:
        """Print an indented line below the current step."""
        self._console.print(f"    {escape(text)}", soft_wrap=True)  # a wrapped line would be two lines in a log file

    def warn(self, text: str) -> None:
        """Print a line that also a quiet export prints."""
        self._always.print(f"[yellow]![/yellow] {escape(text)}", soft_wrap=True)

    def show_table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], marked: str) -> None:
        """Print a compact, indented table below the current step. Cells with the text `marked` stand out."""
        shown = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for row in rows:
            shown.add_row(*(Text(cell, "yellow" if cell == marked else "") for cell in row))
        self._console.print(Padding(shown, (0, 0, 0, 4), expand=False))

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
        line = f"[green]✓[/green] {escape(name):<32} {seconds:6.1f} s  {escape(', '.join(notes))}"
        self._console.print(line.rstrip(), soft_wrap=True)


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
