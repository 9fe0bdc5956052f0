"""`app/scoring/progress.py`: a bar on a terminal, lines in the log elsewhere."""

import io
import logging

import pytest
from rich.console import Console

from app.scoring import progress


def test_a_terminal_shows_a_bar() -> None:
    """The bar has the number of images, and of those without a result."""
    screen = io.StringIO()
    with progress.progress(1000, 0, Console(file=screen, force_terminal=True, width=120)) as report:
        report(250, 3)

    assert "250/1000" in screen.getvalue()
    assert "3 without a result" in screen.getvalue()


@pytest.mark.parametrize(("seconds", "lines"), [(0, 1), (1000, 0)])
def test_the_log_has_a_line_from_time_to_time(
    seconds: int, lines: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal, a line has the progress as fields, but not for every batch."""
    monkeypatch.setattr(progress, "LOG_SECONDS", seconds)
    with (
        caplog.at_level(logging.INFO, "swin.score"),
        progress.progress(1000, 200, Console(file=io.StringIO())) as report,
    ):
        report(250, 3)

    fields = [(record.message, vars(record)["images"], vars(record)["without_result"]) for record in caplog.records]
    assert fields == [("scoring", 250, 3)] * lines
