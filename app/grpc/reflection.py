"""Server reflection, by which a tool such as grpcurl finds services and messages. Knows no call of inference."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from google.protobuf.descriptor_pool import DescriptorPool
from grpc.aio import EOF
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from app.grpc.arrivals import checked_size
from app.grpc.calls import Call
from app.grpc.messages import parse

NAME = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name

# Streams at the same time. Each can hold a message of the largest size, which counts towards no other limit.
MAX_STREAMS = 16


class Reflection:
    """The reflection of services in a pool of descriptors."""

    def __init__(self, names: Sequence[str], pool: DescriptorPool) -> None:
        self._servicer = aio.ReflectionServicer(names, pool=pool)

    async def describe(self, call: Call) -> None:
        """Answer each question of a stream."""
        answers = self._servicer.ServerReflectionInfo(_questions(call.context), call.context)
        async with contextlib.aclosing(answers):
            async for answer in answers:
                await call.context.write(answer)


async def _questions(context: Any) -> AsyncIterator[ServerReflectionRequest]:
    while (data := await context.read()) is not EOF:
        yield parse(ServerReflectionRequest, checked_size(data))
