"""Tests of the signals of `app/server/server.py`."""

import logging
import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn

from app.server.server import Server
from app.settings import Settings

pytestmark = pytest.mark.anyio


class SignalInLine(logging.Handler):
    """A handler during whose line another signal arrives."""

    server: Server

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger(record.name).removeHandler(self)
        self.server.handle_exit(signal.SIGTERM, None)


async def test_a_second_signal_during_the_line_of_the_first_one_ends_the_drain(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A signal that arrives while `draining` is logged is the second one."""
    service: Any = SimpleNamespace(is_draining=False, batcher=SimpleNamespace(abort=lambda: None))
    settings = Settings(device="cpu", drain_delay=3600)
    handler, log = SignalInLine(), logging.getLogger("swin.server")
    handler.server = Server(uvicorn.Config(cast("Any", None), log_config=None), settings, service)
    log.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, log.name):
            handler.server.handle_exit(signal.SIGTERM, None)
    finally:
        log.removeHandler(handler)

    assert handler.server.force_exit
