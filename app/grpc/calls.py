"""The context of each call: key, limits, ID and trace, log line, metrics, and a status for every error. Knows no RPC.

A handler starts when the metadata of a call has arrived, before its message: so the RPCs with one message are served
like streams. A call without a key, or for a full queue, is refused without reading its message.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import unquote

import grpc
from grpc import StatusCode
from grpc.aio import AbortError, ServicerContext

from app.classification.decoding import SMALL_BYTES
from app.errors import (
    DeadlineExceeded,
    Draining,
    InternalError,
    Overloaded,
    ServiceError,
    TooManyCalls,
    TooManyStreams,
    Unauthorized,
)
from app.grpc.arrivals import Arrivals
from app.grpc.client_errors import is_cancellation
from app.grpc.spans import FAILURES, attributes_of, name_of
from app.grpc.status import status_of, trailing_metadata
from app.models.model import Service
from app.observability.logging import request_fields
from app.observability.tracing import NoTracer, Tracer, current_trace, log_fields, parent_of
from app.protocols.bearer_keys import BearerKeys
from app.protocols.request_identity import USABLE_ID, new_id

log = logging.getLogger("swin.request")

T = TypeVar("T")

ID_KEY = "x-request-id"

# The code in log and metrics after a cancellation by the client, as of HTTP.
CLIENT_CLOSED_REQUEST = 499


# A client cancels its call at its deadline, which is earlier than here by the time that the call took to arrive. A
# cancellation within this time before the deadline, in seconds, counts as its end.
TRANSIT_SECONDS = 0.1

# Seconds for which new calls are refused before the server stops, at least. A client on a busy machine takes some
# tenths of a second from the response of one call to its next call.
LAST_CALL_SECONDS = 1


class Call:
    """One call: the service, the deadline, and the message of the client.

    Args:
        service: serves the call.
        context: the call in grpc.
        started: time of `time.perf_counter` at which the call arrived. Deadlines count from here.
        arrivals: limits the messages that arrive at the same time.
    """

    def __init__(self, service: Service, context: Any, started: float, arrivals: Arrivals) -> None:
        self.service, self.started = service, started
        self.context, self._arrivals = context, arrivals
        remaining = context.time_remaining()
        limit = service.settings.request_timeout
        self.deadline = started + (limit if remaining is None else min(remaining, limit))

    async def receive(self, decode: Callable[[bytes], T]) -> T:
        """Read a message without images, and return what `decode` makes of it.

        Raises:
            ServiceError: any error of `Arrivals.small` and of `decode`.
        """
        return decode(await self._arrivals.small(self.context.read, self.deadline))

    @contextlib.asynccontextmanager
    async def receive_upload(self, decode: Callable[[bytes], T], weigh: Callable[[bytes], int]) -> AsyncIterator[T]:
        """Read a message with images, and yield what `decode` makes of it. A heavy one is decoded off the event loop.

        `weigh` returns the bytes of a message that take time to decode.

        Within the block, the message counts towards the setting `max_uploads_mib`.

        Raises:
            Overloaded: the bodies of all requests together exceed `max_uploads_mib`.
            ServiceError: any error of `Arrivals.upload` and of `decode`, and those of `Decoder.document`.
        """
        service = self.service
        try:
            data = await self._arrivals.upload(self.context.read, self.deadline)
        except asyncio.CancelledError:
            service.metrics.cancelled.labels("read").inc()
            raise
        size = len(data)
        service.uploaded += size
        try:
            if service.uploaded > service.settings.max_uploads_mib * 2**20:
                raise Overloaded(1)
            if weigh(data) <= SMALL_BYTES:
                message = decode(data)
            else:
                message = await service.classifier.decoder.document(decode, data, self.deadline)
            del data  # the decoded message has copies
            yield message
        finally:
            service.uploaded -= size


class Limit:
    """The calls that count towards one limit.

    Args:
        maximum: how many there can be at the same time.
        error: makes the error for further calls.
    """

    def __init__(self, maximum: int, error: Callable[[], ServiceError]) -> None:
        self._maximum, self._error, self._count = maximum, error, 0

    def add(self, context: Any) -> None:
        """Count a call until its response has been sent: one that is not read takes memory like a call that waits.

        Raises:
            ServiceError: the limit is reached.
        """
        if self._count >= self._maximum:
            raise self._error()
        self._count += 1
        context.add_done_callback(self._remove)

    def _remove(self, _: object) -> None:
        self._count -= 1


class Calls:
    """All calls of a server.

    Args:
        service: serves the calls.
        tracer: decides which calls are traced, and exports their spans after the response. Streams are not traced.
    """

    def __init__(self, service: Service, tracer: Tracer) -> None:
        self._service, self._tracer, settings = service, tracer, service.settings
        self._keys = BearerKeys(key.get_secret_value() for key in settings.api_keys) if settings.api_keys else None
        self.in_progress = 0  # calls that have arrived, and whose responses have not been sent
        self._arrivals = Arrivals(settings)
        self._with_key, self._open = (Limit(settings.max_connections, TooManyCalls) for _ in range(2))
        self._streams = set[asyncio.Task[Any]]()
        self._ended = asyncio.Event()
        self._is_draining = False

    def unary(
        self, route: str, answer: Callable[[Call], Awaitable[Any]], *, is_open: bool = False
    ) -> grpc.RpcMethodHandler:
        """Return the handler of an RPC with one message in each direction. `is_open`: without an API key.

        Calls that need no key count apart, so that clients without a key cannot hold up the others.
        """
        limit = self._open if is_open else self._with_key

        async def handle(_: object, context: ServicerContext) -> Any:
            async with self._observe(route, context, limit, self._tracer, is_open=is_open) as call:
                return await answer(call)

        return grpc.stream_unary_rpc_method_handler(handle, None, _serialize)

    def stream(
        self, route: str, answer: Callable[[Call], Awaitable[None]], maximum: int, *, is_open: bool = False
    ) -> grpc.RpcMethodHandler:
        """Return the handler of an RPC with a stream of answers, which `answer` writes to the context of the call.

        There can be `maximum` streams at the same time. They do not count towards the limit of other calls.
        """
        limit, tracer = Limit(maximum, partial(TooManyStreams, maximum)), NoTracer()

        async def handle(_: object, context: ServicerContext) -> None:
            async with self._observe(route, context, limit, tracer, is_open=is_open) as call, self._until_the_end():
                await answer(call)

        return grpc.stream_stream_rpc_method_handler(handle, None, _serialize)

    async def drain(self) -> None:
        """Refuse new calls, end those with streams, and wait until all responses have been sent.

        Clients learn from a refusal that the service is shutting down. grpc itself would cancel calls
        that arrive while it stops.
        """
        self._is_draining = True
        for task in self._streams:
            task.cancel()
        await asyncio.sleep(LAST_CALL_SECONDS)
        while self.in_progress:
            self._ended.clear()
            await self._ended.wait()

    @contextlib.asynccontextmanager
    async def _until_the_end(self) -> AsyncIterator[None]:
        """Run the block until `drain`.

        Raises:
            Draining: the server drains.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (for the type checker: the caller is a coroutine)
        self._streams.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self._is_draining and task.uncancel() == 0:  # no other component cancels the task, too
                raise Draining from None
            raise
        finally:
            self._streams.discard(task)

    @contextlib.asynccontextmanager
    async def _observe(
        self, route: str, context: Any, limit: Limit, tracer: Tracer, *, is_open: bool
    ) -> AsyncIterator[Call]:
        """Check, count, log and trace a call, and turn an error in the block into a status."""
        started = time.perf_counter()
        metadata = context.invocation_metadata() or ()
        identity = _identity(metadata)
        headers = _trace_headers(metadata)
        parent = parent_of(headers)
        trace = tracer.begin(parent, headers, started)
        token = request_fields.set({"request_id": identity, **log_fields(parent, trace)})
        trace_token = current_trace.set(trace)
        context.set_trailing_metadata(((ID_KEY, identity),))
        client = _client(context.peer())  # grpc forgets it when the client disconnects
        code, status, refusal = HTTPStatus.OK.value, StatusCode.OK, None
        self.in_progress += 1
        context.add_done_callback(self._end)
        try:
            self._admit(metadata, is_open=is_open)
            limit.add(context)
            yield Call(self._service, context, started, self._arrivals)
        except ServiceError as error:
            code, status, refusal = error.status, status_of(error), error
            log.debug("refused", extra={"code": error.code}, exc_info=error)
        except asyncio.CancelledError:
            code, status = self._cancellation(context)
            raise
        except AbortError:  # the health service does not know the name
            code, status = HTTPStatus.NOT_FOUND.value, StatusCode.NOT_FOUND
            raise
        except Exception as error:
            if is_cancellation(error):
                code, status = self._cancellation(context)
                raise
            log.exception("unexpected error")
            code, status, refusal = InternalError.status, StatusCode.INTERNAL, InternalError()
        finally:
            self._record(route, client, code, status, time.perf_counter() - started)
            if trace is not None:
                attributes = attributes_of(route, client, status)
                end = partial(tracer.end, trace, name_of(route), attributes, failed=status in FAILURES)
                context.add_done_callback(lambda _: end())
            current_trace.reset(trace_token)
            request_fields.reset(token)
        if refusal is not None:  # sent last: the call of a client that has its status is counted
            self._service.metrics.rejected.labels(refusal.code).inc()
            await context.abort(status, refusal.detail, ((ID_KEY, identity), *trailing_metadata(refusal)))

    def _end(self, _: object) -> None:
        self.in_progress -= 1
        self._ended.set()

    def _admit(self, metadata: Sequence[tuple[str, Any]], *, is_open: bool) -> None:
        if self._is_draining:
            raise Draining
        if self._keys is not None and not is_open and not self._keys.admits(_values(metadata, "authorization")):
            raise Unauthorized

    def _cancellation(self, context: Any) -> tuple[int, StatusCode]:
        """Return code and status of a call that grpc has cancelled."""
        remaining = context.time_remaining()
        if remaining is not None and remaining < TRANSIT_SECONDS:
            return DeadlineExceeded.status, StatusCode.DEADLINE_EXCEEDED
        if self._is_draining:
            return Draining.status, StatusCode.UNAVAILABLE
        return CLIENT_CLOSED_REQUEST, StatusCode.CANCELLED

    def _record(self, route: str, client: str, code: int, status: StatusCode, seconds: float) -> None:
        self._service.metrics.observe_request(route, code, seconds)
        if log.isEnabledFor(logging.INFO):
            fields: Mapping[str, Any] = {"client": client, "method": "POST", "path": route}
            outcome = {"code": code, "grpc_status": status.name, "ms": round(seconds * 1e3, 2)}
            log.info("request", extra={**fields, **outcome})


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def _values(metadata: Sequence[tuple[str, Any]], key: str) -> list[bytes]:
    """Return the values of a metadata key, which is in lower case."""
    return [value.encode() if isinstance(value, str) else value for name, value in metadata if name == key]


def _trace_headers(metadata: Sequence[tuple[str, Any]]) -> list[tuple[bytes, bytes]]:
    """Return the fields of W3C Trace Context in a call's metadata."""
    return [(key.encode(), value) for key in ("traceparent", "tracestate") for value in _values(metadata, key)]


def _identity(metadata: Sequence[tuple[str, Any]]) -> str:
    for value in _values(metadata, ID_KEY):
        given = value.decode("latin-1")
        if USABLE_ID.fullmatch(given):
            return given
    return new_id()


def _client(peer: str) -> str:
    """Return the address in a peer such as `ipv4:127.0.0.1:50051` or `ipv6:%5B::1%5D:50051`."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")
