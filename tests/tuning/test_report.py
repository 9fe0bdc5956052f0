"""The report as a page."""

import pytest

from tests.tuning.fakes import measured
from tests.tuning.test_answer import result

pytest.importorskip("matplotlib", reason="the picture is drawn with matplotlib")


def test_the_page_shows_the_answer_and_every_candidate() -> None:
    """It has the picture with the line of the latency, the tables, and no script."""
    from app.tuning.report import html  # noqa: PLC0415 (needs matplotlib)

    found = result()
    for trial in found.trials:
        trial.add(measured(800, latency_ms=7))
        trial.add(measured(1000, latency_ms=40, holds=False))

    text = html(found, {"Machine": "<a machine>"})

    assert "<svg" in text
    assert "p99 = 20 ms" in text
    assert "99th percentile" in text
    assert "These settings hold 850 requests/s" in text
    assert "max_batch=4 http_workers=1 max_queue_size=64" in text
    assert "&lt;a machine&gt;" in text
    assert "<script" not in text
    assert "http://" not in text.replace("http://www.w3.org", "")
