"""The answers of `swin-serve classify`: a table on a terminal, otherwise lines with tabs or JSON. Knows no model."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from app.classification.classifier import Prediction
from app.cli.terminal import written
from app.extras import is_installed
from app.validation_messages import printable

if TYPE_CHECKING:
    from rich.console import Console

HEAD = ("image", "index", "label", "score")

# Width in characters of the bar that shows a score.
BAR_WIDTH = 12


@dataclass(frozen=True)
class Answer:
    """The best classes of one image, best first, or the sentence that says why there are none."""

    image: str  # as it was given
    predictions: Sequence[Prediction] = ()
    evidence: Path | None = None  # the picture that was written
    error: str | None = None


# Shows one answer. Answers with an error are shown by JSON only.
Show = Callable[[Answer], None]


@contextmanager
def shown_on(out: TextIO, *, as_json: bool) -> Iterator[Show]:
    """Show answers inside the block. Lines are written at once, a table at the end of the block.

    On a terminal, the table is rich's, or plain text if rich is not installed.

    Raises:
        OutputLost: the output takes no text.
    """
    if as_json or not out.isatty():
        line_of = _json_line if as_json else _lines

        def show_line(answer: Answer) -> None:
            with written(out):
                out.write(line_of(answer))

        yield show_line
        return
    answers = list[Answer]()
    try:
        yield answers.append
    finally:
        with written(out):
            _print_table([answer for answer in answers if answer.error is None], out)


def _json_line(answer: Answer) -> str:
    line: dict[str, object] = {"image": answer.image}
    if answer.error is None:
        line["predictions"] = [vars(prediction) for prediction in answer.predictions]
        if answer.evidence is not None:
            line["evidence"] = str(answer.evidence)
    else:
        line["error"] = answer.error
    return f"{json.dumps(line)}\n"


def _lines(answer: Answer) -> str:
    """Return a line for each class: image, index, label and score, separated by tabs."""
    return "".join("\t".join(cells) + "\n" for cells in _rows(answer))


def _rows(answer: Answer) -> Iterator[list[str]]:
    """Yield the cells of each class. Names cannot hold a tab, a line break or a control sequence of a terminal."""
    image = printable(answer.image)
    for prediction in answer.predictions:
        yield [image, str(prediction.index), printable(prediction.label), f"{prediction.score:.4f}"]


def _print_table(answers: Sequence[Answer], out: TextIO) -> None:
    if not answers:
        return
    if not is_installed("rich"):
        _print_plain_table(answers, out)
        return
    from rich.console import Console  # noqa: PLC0415 (an extra)

    _print_rich_table(answers, Console(file=out, highlight=False))


def _print_plain_table(answers: Sequence[Answer], out: TextIO) -> None:
    rows = [list(HEAD), *(cells for answer in answers for cells in _rows(answer))]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(HEAD))]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip(), file=out)


def _print_rich_table(answers: Sequence[Answer], console: "Console") -> None:
    """Print a table with a bar for each score. The first class of an image stands out and has its name."""
    from rich import box  # noqa: PLC0415 (an extra)
    from rich.bar import Bar  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    bars = not console.options.ascii_only
    table = Table(*HEAD[:-1], box=box.SIMPLE_HEAD)
    table.add_column(HEAD[-1], justify="right")
    table.add_column("", width=BAR_WIDTH if bars else 0)
    for answer in answers:
        for place, (cells, prediction) in enumerate(zip(_rows(answer), answer.predictions, strict=True)):
            style = "" if place else "bold"
            texts = [Text(cell, style, overflow="fold") for cell in (cells if place == 0 else ["", *cells[1:]])]
            table.add_row(*texts, Bar(1, 0, prediction.score, width=BAR_WIDTH, color="cyan") if bars else "")
        table.add_section()
    console.print(table)
