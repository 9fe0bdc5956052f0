"""Calls of gRPC on shared channels, and the outcome of each call. Knows no scenario."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import grpc
from grpc import StatusCode

from app.errors import EngineFailed
from app.grpc.proto.inference_pb2 import ModelInferResponse
from app.grpc.status import PUSHBACK
from benchmarks.load.images import Known
from tests.chaos.outcomes import ENGINE_FAILED, NO_RESPONSE, WRONG_RESPONSE
from tests.chaos.results import are_results, tensor
from tests.support.rpc import route

# Outcomes of calls. Without an id in its trailing metadata, the status is of grpc on one of both sides.
OK, LATE, MESSAGE_TIMEOUT, GRPC_TOO_LONG = "OK", "deadline of the client", "message timeout", "too long for grpc"
CANCELLED_BY_GRPC = "cancelled by grpc"

BY_GRPC = {
    StatusCode.UNAVAILABLE: NO_RESPONSE,
    StatusCode.DEADLINE_EXCEEDED: LATE,
    StatusCode.RESOURCE_EXHAUSTED: GRPC_TOO_LONG,
    StatusCode.CANCELLED: CANCELLED_BY_GRPC,
}

# Channels that calls share. HTTP workers share the connections of all channels.
CHANNELS = 4

ID_KEY = "x-request-id"
INFER = route("ModelInfer")


class RpcPool:
    """Channels to a service, and the status of each call. Channels open at the first call.

    Args:
        address: host and port of gRPC.
        random: chooses channels.
    """

    def __init__(self, address: str, random: Random) -> None:
        self.address, self._random = address, random
        self._channels = dict[int, Any]()
        # The status by request id; None without a response that names the id.
        self.statuses: dict[str, str | None] = {}
        # The ids of calls that their clients canceled, or whose connection a client cut.
        self.canceled = set[str]()

    async def close(self) -> None:
        """Close all channels. Further calls open them again."""
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()

    @property
    def channel(self) -> Any:
        """One of the shared channels."""
        number = self._random.randrange(CHANNELS)
        if number not in self._channels:
            self._channels[number] = open_channel(self.address)
        return self._channels[number]

    def start(self, message: bytes, *, channel: Any = None, timeout: float | None = None) -> "Call":
        """Start a call of `ModelInfer` with an id of its own."""
        infer = (channel or self.channel).unary_unary(INFER, None, ModelInferResponse.FromString)
        identity = self._identity()
        return Call(self, identity, infer(message, metadata=[(ID_KEY, identity)], timeout=timeout))

    def start_stream(self, messages: Any = None) -> "Call":
        """Start a call of `ModelInfer` with the messages of an iterator, or without sending any."""
        infer = self.channel.stream_unary(INFER, None, ModelInferResponse.FromString)
        identity = self._identity()
        return Call(self, identity, infer(messages, metadata=[(ID_KEY, identity)]))

    def _identity(self) -> str:
        identity = f"call-{len(self.statuses)}"
        self.statuses[identity] = None
        return identity


class Call:
    """One call that has started."""

    def __init__(self, pool: RpcPool, identity: str, call: Any) -> None:
        self._pool, self._identity, self._call = pool, identity, call

    async def cancel(self) -> None:
        """Cancel the call. It has no outcome then."""
        self.leave()
        self._call.cancel()
        # A canceled call that is not awaited would hold its connection until it is collected.
        await asyncio.gather(self._call, return_exceptions=True)

    def leave(self) -> None:
        """Note that the client is about to leave the call by the end of its connection."""
        self._pool.canceled.add(self._identity)

    async def end(self) -> None:
        """Wait until the call has ended in any way."""
        await self._call.code()

    async def outcome(self, *known: Known) -> str:
        """Return the outcome of the call, after checks of its id and of the known predictions."""
        try:
            response = await self._call
        except grpc.aio.AioRpcError as error:
            return self._failure(error)
        if self._record(await self._call.trailing_metadata(), StatusCode.OK) != self._identity:
            return WRONG_RESPONSE
        logits = tensor(response.raw_output_contents[0], response.outputs[0].shape)
        return WRONG_RESPONSE if known and not are_results(logits, known) else OK

    def _failure(self, error: Any) -> str:
        code, trailing = error.code(), error.trailing_metadata() or ()
        named = self._record(trailing, code)
        if named is None:
            return BY_GRPC.get(code, f"{code.name} by grpc")
        if named != self._identity:
            return WRONG_RESPONSE
        if code is StatusCode.INTERNAL and EngineFailed().detail in error.details():
            return ENGINE_FAILED
        if code is StatusCode.DEADLINE_EXCEEDED and "did not arrive" in error.details():
            return MESSAGE_TIMEOUT
        if code is StatusCode.UNAVAILABLE and PUSHBACK not in dict(trailing):
            return f"{code.name} without a pushback"
        return str(code.name)

    def _record(self, trailing: Sequence[tuple[str, str]], code: StatusCode) -> str | None:
        """Record the status of a response, and return the id that it names, or None."""
        named = dict(trailing).get(ID_KEY)
        if named in self._pool.statuses:
            self._pool.statuses[named] = code.name
        return named


def open_channel(address: str) -> Any:
    """Open a channel with a connection of its own, on which no call is sent twice."""
    return grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)])
