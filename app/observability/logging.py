"""One line per event, for people or for log collectors."""

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime

of_request: ContextVar[Mapping[str, str]] = ContextVar("of_request")
"""Fields of every line that belongs to the current request."""

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def configure(style: str, level: str) -> None:
    """Send every logger to standard error in one style. `level` as in `settings.Settings.log_level`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if style == "json" else TextLine())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # ours say in one line what it says in six
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a damaged form is the caller's news, not ours
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # damaged images are their callers' news


class TextLine(logging.Formatter):
    """Time, level, logger, message, then the fields as `name=value`; a stack trace is indented below."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        fields = " ".join(f"{name}={_plain(str(value))}" for name, value in _fields(record).items())
        line = f"{moment} {record.levelname} {record.name} {_message(record)} {fields}".rstrip()
        return line if record.exc_info is None else f"{line}\n{_indented(self.formatException(record.exc_info))}"


class JsonLine(logging.Formatter):
    """One JSON object per line; a stack trace is a field of it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
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
    """In one line, whatever a library makes of it."""
    return _printable(" ".join(record.getMessage().split()))


def _indented(trace: str) -> str:
    """No line of it looks like an event: it can hold what a caller sent."""
    return "\n".join(f"    {_printable(line)}" for line in trace.splitlines())


def _printable(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


def _plain(value: str) -> str:
    """As it is, or quoted and escaped: what a caller sent must not look like another line or another field."""
    return value if value.isprintable() and not set(value) & set(' "=') else json.dumps(value)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = {name: value for name, value in vars(record).items() if name not in STANDARD}
    return {**of_request.get({}), **fields}
