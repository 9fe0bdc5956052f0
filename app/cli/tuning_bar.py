"""The bar of `swin-serve tune` on a terminal: what is being done, and the time that is left. Needs rich.

Nothing is drawn during a window: that would take the CPU from the load.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from app.tuning.schedule import Schedule


class _Left(ProgressColumn):
    """A column with the time that is left."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule

    def render(self, task: Task) -> Text:  # noqa: ARG002 (the signature of a column)
        return Text(f"{self._schedule.clock} left")


@contextmanager
def bar(schedule: Schedule) -> Iterator[Callable[[str], None]]:
    """Show a bar inside the block. Yield the function that takes what is being done."""
    columns = (BarColumn(bar_width=20), _Left(schedule), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as shown:
        task = shown.add_task("", total=schedule.seconds)
        yield lambda text: shown.update(task, completed=schedule.elapsed, description=text, refresh=True)
