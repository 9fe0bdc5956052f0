"""`app/observability/logging.py`: one line per event, whatever a client sends."""

import io
import json
import logging
import warnings

import pytest

from app.observability.logging import JsonLine, TextLine, configure

FORGED = "/x\n2026-01-01T00:00:00.000+00:00 INFO swin.start ready\x1b[31m"


def line(formatter: logging.Formatter, **fields: object) -> str:
    """Return the line that a logger with this formatter writes for one event."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatter)
    handler.handle(logging.makeLogRecord({"name": "swin.test", "levelname": "INFO", "msg": "request", **fields}))
    return written.getvalue()


@pytest.mark.parametrize("formatter", [TextLine(), JsonLine()])
def test_text_of_a_client_begins_no_line(formatter: logging.Formatter) -> None:
    """A path with a line break and an escape sequence stays in its field."""
    written = line(formatter, path=FORGED)

    assert written.count("\n") == 1
    assert "\x1b" not in written


def test_text_fields_can_be_separated() -> None:
    """A value with a space or an equals sign is quoted, so it looks like no other field."""
    assert line(TextLine(), path="/x code=200", code=404).endswith('path="/x code=200" code=404\n')


def test_json_is_json() -> None:
    """Every line is one object with the fields of its event."""
    event = json.loads(line(JsonLine(), path="/classify", code=200))

    assert (event["message"], event["path"], event["code"], event["level"]) == ("request", "/classify", 200, "info")


@pytest.mark.parametrize("formatter", [TextLine(), JsonLine()])
def test_a_library_s_message_is_one_line(formatter: logging.Formatter) -> None:
    """Line breaks and escape sequences in a message do not reach the log."""
    written = line(formatter, msg="%s", args=("first\n  second\x1b[31m",))

    assert written.count("\n") == 1
    assert "first second" in written
    assert "\x1b" not in written


def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Python prints the line of code below a warning; the log keeps both in one line."""
    root, shown = logging.getLogger(), warnings.showwarning
    before = root.handlers[:], root.level
    try:
        configure("text", "info")
        with warnings.catch_warnings(action="always"):
            logging.captureWarnings(capture=True)
            warnings.warn("too\nold", DeprecationWarning, stacklevel=1)
    finally:
        logging.captureWarnings(capture=False)
        root.handlers, root.level = before
    assert shown is warnings.showwarning

    (written,) = capsys.readouterr().err.splitlines()
    assert "WARNING py.warnings" in written
    assert "DeprecationWarning: too old" in written


def test_no_line_of_a_stack_trace_looks_like_an_event() -> None:
    """In text, every line of the trace is indented; in JSON, the trace is a field."""
    raised = (ValueError, ValueError(FORGED), None)
    text = line(TextLine(), exc_info=raised).splitlines()
    (json_line,) = line(JsonLine(), exc_info=raised).splitlines()

    assert len(text) > 2
    assert [each for each in text[1:] if not each.startswith("    ")] == []
    assert "ValueError" in json.loads(json_line)["exception"]
