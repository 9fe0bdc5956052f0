"""The progress of `swin-serve bench` on standard error: a bar on a terminal, otherwise a line for each window.

Nothing is drawn during a window: that would take the CPU from the load.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.cli.terminal import draws_bars
from app.load.figures import decimal, milliseconds
from app.load.sweep import Progress
from app.load.windows import Window

if TYPE_CHECKING:
    import rich.progress


@contextmanager
def progress(windows: int) -> Iterator[Progress]:
    """Show the progress of so many windows inside the block. Without rich, a terminal has lines, too."""
    if not draws_bars():
        yield _Lines()
        return
    from rich.console import Console  # noqa: PLC0415 (an extra)
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("windows, now {task.description}"))
    with Bar(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as bar:
        yield _Shown(bar, bar.add_task("", total=windows))


class _Lines:
    def begin(self, name: str) -> None:
        """Print nothing yet."""

    def end(self, name: str, window: Window) -> None:
        figures = f"{decimal(window.requests_per_second)} requests/s, p99 {milliseconds(window.latency_ms[99])} ms"
        print(f"{name}: {figures}", file=sys.stderr, flush=True)


class _Shown:
    def __init__(self, bar: "rich.progress.Progress", task: "rich.progress.TaskID") -> None:
        self._bar, self._task = bar, task

    def begin(self, name: str) -> None:
        self._bar.update(self._task, description=name, refresh=True)

    def end(self, *_: object) -> None:
        self._bar.update(self._task, advance=1, refresh=True)
