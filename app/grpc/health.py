"""The service `grpc.health.v1.Health`: whether the server is ready, once or as a stream. Knows no model.

The package grpcio-health-checking has such a service, too. One client of its `Watch` that does not read its stream
keeps the status from changing for all others.
"""

import asyncio
from functools import partial
from typing import NoReturn

from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from app.grpc.calls import Call
from app.grpc.messages import parse
from app.models.model import Service
from app.validation_messages import shorten

NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

# Seconds between two looks at the service. `Watch` reports a change after this time at the latest, `Check` at once.
INTERVAL_SECONDS = 0.1

# Streams of `Watch` at the same time. A load balancer needs one for each of its connections.
MAX_STREAMS = 64


class Health:
    """The health of a service. `names` are those of the gRPC services, beside "" for all of them."""

    def __init__(self, service: Service, names: tuple[str, ...]) -> None:
        self._service, self._names = service, ("", *names)
        self._changed = asyncio.Event()

    async def check(self, call: Call) -> HealthCheckResponse:
        """Return whether a gRPC service is ready."""
        name = (await call.receive(partial(parse, HealthCheckRequest))).service
        if name not in self._names:
            await call.context.abort(StatusCode.NOT_FOUND, f"There is no service '{shorten(name)}'.")
        return HealthCheckResponse(status=self._status)

    async def watch(self, call: Call) -> None:
        """Write the status of a gRPC service, and each change of it until the client ends the call."""
        is_known = (await call.receive(partial(parse, HealthCheckRequest))).service in self._names
        last = None
        while True:
            changed = self._changed
            status = self._status if is_known else HealthCheckResponse.SERVICE_UNKNOWN
            if status != last:
                await call.context.write(HealthCheckResponse(status=status))
                last = status
            await changed.wait()

    async def look(self) -> NoReturn:
        """Look regularly whether the service is ready, and tell the streams about changes."""
        last = self._status
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            if self._status != last:
                last = self._status
                changed, self._changed = self._changed, asyncio.Event()
                changed.set()

    @property
    def _status(self) -> int:
        status: int = HealthCheckResponse.SERVING if self._service.is_ready else HealthCheckResponse.NOT_SERVING
        return status
