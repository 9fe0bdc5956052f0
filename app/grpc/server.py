"""The gRPC server: its port and options, the services on it, and its stop. Knows no message of inference."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from functools import partial

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from app.grpc import health, inference, reflection
from app.grpc.accepting import Handlers, new_server
from app.grpc.calls import Calls
from app.grpc.health import Health
from app.grpc.port import Port
from app.grpc.proto.descriptors import POOL, SERVICE_NAME
from app.grpc.reflection import Reflection
from app.models.model import Service
from app.observability.tracing import Tracer
from app.settings import Settings

for _module in (health_pb2, reflection_pb2):  # reflection describes these services, too
    POOL.AddSerializedFile(_module.DESCRIPTOR.serialized_pb)

# The route in metrics of RPCs that the service does not have: each name of a client would be another time series.
UNKNOWN = "unknown"

# Largest length of a message in bytes that grpc can be told.
MAX_INT = 2**31 - 1

# Seconds for the responses of the last calls.
RESPONSE_SECONDS = 1

# Milliseconds without activity until a ping finds out whether a client is still there. Without it, clients that vanish
# without closing their connections would count towards the limit of connections for hours.
KEEPALIVE_MS = 60_000

# Milliseconds without a call after which a connection is closed. Clients open it again with their next call.
MAX_IDLE_MS = 300_000

# Shortest time in milliseconds between two pings of a client. The connection of a client that pings more often is
# closed. The clients of Go and Java ping every 10 s at most. The difference is for pings that arrive late.
MIN_PING_INTERVAL_MS = 5_000

# Calls at the same time on one connection. A client queues further calls itself. Without a limit, one connection whose
# client reads no response could hold calls of all connections together.
MAX_CALLS_PER_CONNECTION = 128


class RpcServer:
    """A gRPC server in front of a service."""

    def __init__(self, service: Service, tracer: Tracer) -> None:
        self._service, self._settings, self.calls = service, service.settings, Calls(service, tracer)
        self._health = Health(service, (SERVICE_NAME,))
        self._reflection = Reflection([SERVICE_NAME, health.NAME, reflection.NAME], POOL)
        handlers = Handlers(self._handlers(), self.calls.unary(UNKNOWN, inference.not_supported))
        new = partial(new_server, handlers, _options(self._settings))
        self._port = Port(new, self._report, self._settings.request_timeout)
        self._looking: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port of the address on which the server serves."""
        return self._port.number

    async def start(self, address: str) -> None:
        """Serve on an address, such as `127.0.0.1:8001`.

        Raises:
            StartError: the address cannot be bound.
        """
        await self._port.open(address)
        self._looking = asyncio.create_task(self._health.look())

    async def stop(self, timeout: float) -> None:  # noqa: ASYNC109 (the calls are cancelled after it, without an error)
        """Refuse new calls, and wait for those in progress. After `timeout` seconds they are cancelled.

        A second call of this method with a shorter timeout ends the first one sooner.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.calls.drain()
        # The last handlers have returned, and grpc sends their responses. While grpc waits, it accepts no shorter time.
        await self._port.close(None if self.calls.in_progress else RESPONSE_SECONDS)
        if self._looking is not None:
            self._looking.cancel()

    def _report(self, is_listening: bool) -> None:  # noqa: FBT001 (the only argument of a callback)
        self._service.has_lost_port = not is_listening

    def _handlers(self) -> Mapping[str, grpc.RpcMethodHandler]:
        """Return the handler of each RPC by its full name."""
        unary, stream, is_open = self.calls.unary, self.calls.stream, self._settings.health_open
        check, watch = f"/{health.NAME}/Check", f"/{health.NAME}/Watch"
        info = f"/{reflection.NAME}/ServerReflectionInfo"
        handlers = {
            check: unary(check, self._health.check, is_open=is_open),
            watch: stream(watch, self._health.watch, health.MAX_STREAMS, is_open=is_open),
            info: stream(info, self._reflection.describe, reflection.MAX_STREAMS),
        }
        for name, answer in inference.RPCS.items():
            route = f"/{SERVICE_NAME}/{name}"
            handlers[route] = unary(route, answer, is_open=is_open and name in inference.HEALTH)
        return handlers


@contextlib.asynccontextmanager
async def serving(service: Service, address: str, tracer: Tracer) -> AsyncIterator[RpcServer]:
    """Serve gRPC on an address inside the block.

    Raises:
        StartError: the address cannot be bound.
    """
    server = RpcServer(service, tracer)
    try:
        await server.start(address)
        yield server
    finally:
        await server.stop(0)


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", min(settings.max_body_mib * 2**20, MAX_INT)),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
        # This protection also counts calls whose memory grpc has not freed yet. With it, 40 % of the calls of a client
        # that kept to the limit above were refused.
        ("grpc.http.overload_protection", 0),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_permit_without_calls", 1),  # for pings of both sides
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.max_connection_idle_ms", MAX_IDLE_MS),
        ("grpc.so_reuseport", 1),
    ]
