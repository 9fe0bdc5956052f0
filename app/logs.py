"""One line per event, for people or for log collectors."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def configure(style: str, level: str) -> None:
    """Send every logger to standard error in one style. `level` as in `settings.Settings.log_level`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if style == "json" else TextLine())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # ours say in one line what it says in six
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a damaged form is the caller's news, not ours


class TextLine(logging.Formatter):
    """Time, level, logger, message, then the fields as `name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        fields = " ".join(f"{name}={_plain(str(value))}" for name, value in _fields(record).items())
        line = f"{moment} {record.levelname} {record.name} {record.getMessage()} {fields}".rstrip()
        return line if record.exc_info is None else f"{line}\n{self.formatException(record.exc_info)}"


class JsonLine(logging.Formatter):
    """One JSON object per line; a stack trace is a field of it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info is not None:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _plain(value: str) -> str:
    """As it is, or quoted and escaped: what a caller sent must not look like another line or another field."""
    return value if value.isprintable() and not set(value) & set(' "=') else json.dumps(value)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = {name: value for name, value in vars(record).items() if name not in STANDARD}
    current = request_id.get()
    return fields if current is None else {"request_id": current, **fields}
