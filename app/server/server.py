"""uvicorn's server with a drain that loses no request. Knows no route and no image.

At its shutdown, uvicorn closes idle connections at once, although a request may be arriving on
them, and resets connections that it has not accepted yet.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Protocol

import uvicorn

from app.models.model import Service
from app.server.handshakes import accept_packets, refuse_new_handshakes
from app.server.protocol import Connection, State
from app.server.sockets import address_of
from app.settings import Settings

log = logging.getLogger("swin.server")

# Seconds between the last accepted connection and the closing of idle ones. A request that a
# client has sent before gets its response.
LAST_REQUEST_SECONDS = 0.25

# Seconds between two checks of the connections: ten of uvicorn's ticks.
CHECK_INTERVAL_SECONDS = 1

# Seconds between two looks, during a drain, whether a second signal has come.
FORCED_EXIT_INTERVAL_SECONDS = 0.1

# An ASGI application. uvicorn and Starlette have different types for its arguments.
App = Callable[..., Any]


class RpcServer(Protocol):
    """Another server in front of the same service, which stops with the HTTP server."""

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109 (the calls are cancelled after it, without an error)
        """Refuse new calls, wait for those in progress, and cancel them after `timeout` seconds."""


class Server(uvicorn.Server):
    """uvicorn's server with a drain.

    The first signal turns readiness off and starts the drain. The second signal ends the process
    without waiting for requests in progress. `rpc_server` drains with this server.
    """

    def __init__(
        self, config: uvicorn.Config, settings: Settings, service: Service, rpc_server: RpcServer | None = None
    ) -> None:
        super().__init__(config)
        self._rpc_server = rpc_server
        self.server_state = self._state = State(settings, service)
        self._settings, self._service = settings, service
        self._loop = asyncio.get_running_loop()
        self._checked_at: float | None = None  # time of the last check of the connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await super().startup(sockets)
        self.on_listening(sockets or [])

    def on_listening(self, listeners: Sequence[socket.socket]) -> None:
        """Log the URL of each listener. HTTP workers override this method."""
        for listener in listeners:
            log.info("listening", extra={"url": url_of(listener)})

    async def on_tick(self, counter: int) -> bool:
        """Check the connections once a second. uvicorn calls this method ten times a second."""
        if counter % 10 == 0:
            self._check(time.monotonic())
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (the signature of a signal handler)
        """Start the drain, or end it at the second signal.

        uvicorn's own handler is not called, because uvicorn would then end the process by the
        signal. A completed drain exits with 0.
        """
        if self._service.is_draining:
            self.should_exit = self.force_exit = True
            self._loop.call_soon_threadsafe(self._service.batcher.abort)
            return
        self._service.is_draining = True  # before the line of the log, during which a second signal can arrive
        log.info("draining", extra={"signal": signal.Signals(sig).name})
        self._loop.call_soon_threadsafe(self._drain)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept the connections that are established already, serve their requests, and close all.

        Idle connections are closed first, the others after their responses.
        """
        stopping = asyncio.create_task(self._stop_rpc_server())
        await self._accept_last(sockets or [])
        if not self.force_exit:
            await asyncio.sleep(LAST_REQUEST_SECONDS)
        await super().shutdown(sockets)
        await stopping

    @property
    def _connections(self) -> list[Connection]:
        return [each for each in self.server_state.connections if isinstance(each, Connection)]

    def _check(self, now: float) -> None:
        """Check the timeouts of all connections.

        The time for which the event loop was stalled does not count: it could not read the
        requests meanwhile.
        """
        stalled = max(now - self._checked_at - CHECK_INTERVAL_SECONDS, 0) if self._checked_at is not None else 0
        self._checked_at = now
        for connection in self._connections:
            connection.extend_timeouts(stalled, now)
            connection.check_timeouts(now)

    def _drain(self) -> None:
        for connection in self._connections:
            connection.close_after_response()
        self._loop.call_later(self._settings.drain_delay, self._stop)

    def _stop(self) -> None:
        self.should_exit = True

    async def _stop_rpc_server(self) -> None:
        if self._rpc_server is None:
            return
        stopping = asyncio.create_task(self._rpc_server.stop(self._settings.drain_timeout))
        while not stopping.done():
            await asyncio.wait([stopping], timeout=FORCED_EXIT_INTERVAL_SECONDS)
            if self.force_exit:
                await self._rpc_server.stop(0)

    async def _accept_last(self, listeners: Sequence[socket.socket]) -> None:
        """Empty the accept queues, because closing a listener resets the connections in its queue."""
        for listener in listeners:
            refuse_new_handshakes(listener)
        accepted = [connection for listener in listeners for connection in _accept_all(listener)]
        for server in self.servers:
            server.close()
        for connection in accepted:
            await self._loop.connect_accepted_socket(self._connect, connection)

    def _connect(self) -> Connection:
        return Connection(self.config, self._state, self.lifespan.state)


def url_of(listener: socket.socket) -> str:
    """Return the http URL of a listener."""
    return f"http://{address_of(*listener.getsockname()[:2])}"


def uvicorn_config(app: App, settings: Settings) -> uvicorn.Config:
    """Return the configuration of uvicorn that follows from the settings."""
    proxies = [str(network) for network in settings.trusted_proxies]
    return uvicorn.Config(
        app,
        lifespan="off",
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),  # by default, uvicorn trusts every client on this machine
        forwarded_allow_ips=proxies,
        timeout_graceful_shutdown=round(settings.drain_timeout),
    )


def _accept_all(listener: socket.socket) -> list[socket.socket]:
    connections = []
    with contextlib.suppress(OSError):  # the queue is empty, or no file descriptor is left
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            accept_packets(connection)
            connections.append(connection)
    return connections
