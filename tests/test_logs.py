"""`app/logs.py`: one line per event, whatever a caller sends."""

import io
import json
import logging

import pytest

from app.logs import JsonLine, TextLine

FORGED = "/x\n2026-01-01T00:00:00.000+00:00 INFO swin.start ready\x1b[31m"


def line(formatter: logging.Formatter, **fields: object) -> str:
    """What a logger with this formatter writes for one event."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatter)
    handler.handle(logging.makeLogRecord({"name": "swin.test", "levelname": "INFO", "msg": "request", **fields}))
    return written.getvalue()


@pytest.mark.parametrize("formatter", [TextLine(), JsonLine()])
def test_nothing_a_caller_sends_begins_a_line(formatter: logging.Formatter) -> None:
    """A path with a line break and an escape sequence stays in its field."""
    written = line(formatter, path=FORGED)

    assert written.count("\n") == 1
    assert "\x1b" not in written


def test_text_fields_are_told_apart() -> None:
    """A value with a space or an equals sign is quoted: it cannot look like another field."""
    assert line(TextLine(), path="/x code=200", code=404).endswith('path="/x code=200" code=404\n')


def test_json_is_json() -> None:
    """Every line is one object, with the fields of its event."""
    event = json.loads(line(JsonLine(), path="/classify", code=200))

    assert (event["message"], event["path"], event["code"], event["level"]) == ("request", "/classify", 200, "info")
