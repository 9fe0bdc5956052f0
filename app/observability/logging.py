"""The log: one line per event, for people or for log collectors.

Knows no event: loggers pass their fields as `extra`.
"""

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime

# Fields of every line that belongs to the current request.
request_fields: ContextVar[Mapping[str, str]] = ContextVar("request_fields")

# Attributes that every record has. All others are fields of the event.
STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def configure(style: str, level: str) -> None:
    """Send every logger to standard error, as `text` or `json`, from this level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if style == "json" else TextLine())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(capture=True)
    # swin-serve logs start and end in one line; uvicorn uses six.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    # At debug, grpc logs several lines for each call.
    logging.getLogger("grpc").setLevel(logging.INFO)
    # A damaged form or image is an error of the client, which gets it as a response.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


class TextLine(logging.Formatter):
    """A line of text: time, level, logger, message, then fields as `name=value`.

    A stack trace follows the line, indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        fields = " ".join(f"{name}={_quoted(str(value))}" for name, value in _fields(record).items())
        line = f"{moment} {record.levelname} {record.name} {_message(record)} {fields}".rstrip()
        return line if record.exc_info is None else f"{line}\n{_indented(self.formatException(record.exc_info))}"


class JsonLine(logging.Formatter):
    """A line with one JSON object; a stack trace is a field of the object."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_fields(record),
        }
        if record.exc_info is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _message(record: logging.LogRecord) -> str:
    """Return the message in one line; a library may put line breaks into it."""
    return _printable(" ".join(record.getMessage().split()))


def _indented(trace: str) -> str:
    """Indent a stack trace, so that no line with text of a client looks like an event."""
    return "\n".join(f"    {_printable(line)}" for line in trace.splitlines())


def _printable(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


def _quoted(value: str) -> str:
    """Quote a value if needed, so that text of a client looks like no other field or line."""
    return value if value.isprintable() and not set(value) & set(' "=') else json.dumps(value)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = {name: value for name, value in vars(record).items() if name not in STANDARD}
    return {**request_fields.get({}), **fields}
