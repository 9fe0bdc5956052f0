"""uvicorn, with an end that loses nobody: it closes connections on which a request may just be arriving."""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import uvicorn

from app.models.model import Service
from app.server.handshakes import begin_none, go_on
from app.server.protocol import Connection, State
from app.settings import Settings
from app.system.open_files import connections_within

log = logging.getLogger("swin.server")

LAST_SECONDS = 0.25
"""Between the last connection taken and the first idle one closed: what was sent before that is answered."""

# Time between two checks of the connections: ten of uvicorn's ticks.
CHECK_SECONDS = 1

App = Callable[..., Any]
"""An ASGI application; what uvicorn and Starlette call its arguments differs."""


class Server(uvicorn.Server):
    """uvicorn with a drain: the first signal turns readiness off and waits, the second leaves now."""

    def __init__(self, config: uvicorn.Config, settings: Settings, service: Service) -> None:
        super().__init__(config)
        self.server_state = self._state = State(settings, service)
        self._settings, self._service = settings, service
        self._loop = asyncio.get_running_loop()
        self._checked_at: float | None = None  # when the connections were looked at last

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where, once callers are let in."""
        self._state.most_connections = connections_within(self._settings.max_connections)
        await super().startup(sockets)
        self.say_where(sockets or [])

    def say_where(self, listeners: Sequence[socket.socket]) -> None:
        """In the log: an address that can be followed."""
        for listener in listeners:
            log.info("listening", extra={"url": url_of(listener)})

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; looks at the connections once."""
        if counter % 10 == 0:
            self._check(time.monotonic())
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (uvicorn calls it as signal handlers are called)
        """Not passed on to uvicorn, which would end the process by the signal: a drain that worked exits with 0."""
        if self._service.is_draining:
            self.should_exit = self.force_exit = True
            self._loop.call_soon_threadsafe(self._service.batcher.abort)
            return
        log.info("draining", extra={"signal": signal.Signals(sig).name})
        self._service.is_draining = True
        self._loop.call_soon_threadsafe(self._drain)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take whoever has already connected, answer what they send, then close what is idle, then what was busy."""
        await self._take_last(sockets or [])
        if not self.force_exit:
            await asyncio.sleep(LAST_SECONDS)
        await super().shutdown(sockets)

    @property
    def _connections(self) -> list[Connection]:
        return [each for each in self.server_state.connections if isinstance(each, Connection)]

    def _check(self, now: float) -> None:
        """Check all connections, and give each the time in which a stalled event loop could not read what it sent."""
        stalled = max(now - self._checked_at - CHECK_SECONDS, 0) if self._checked_at is not None else 0
        self._checked_at = now
        for connection in self._connections:
            connection.prolong(stalled, now)
            connection.check(now)

    def _drain(self) -> None:
        for connection in self._connections:
            connection.let_go()
        self._loop.call_later(self._settings.drain_delay, self._stop)

    def _stop(self) -> None:
        self.should_exit = True

    async def _take_last(self, listeners: Sequence[socket.socket]) -> None:
        """Closing a listener resets the connections that nobody has accepted yet."""
        for listener in listeners:
            begin_none(listener)
        taken = [connection for listener in listeners for connection in _accepted(listener)]
        for server in self.servers:
            server.close()
        for connection in taken:
            await self._loop.connect_accepted_socket(self._connect, connection)

    def _connect(self) -> Connection:
        return Connection(self.config, self._state, self.lifespan.state)


def url_of(listener: socket.socket) -> str:
    """Where it is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def configured(app: App, settings: Settings) -> uvicorn.Config:
    """What uvicorn is told."""
    proxies = [str(network) for network in settings.trusted_proxies]
    return uvicorn.Config(
        app,
        lifespan="off",
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),  # uvicorn's own default believes whoever asks from this machine
        forwarded_allow_ips=proxies,
        timeout_graceful_shutdown=round(settings.drain_timeout),
    )


def _accepted(listener: socket.socket) -> list[socket.socket]:
    connections = []
    with contextlib.suppress(OSError):  # there is none left, or no file descriptor for it
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            go_on(connection)
            connections.append(connection)
    return connections
