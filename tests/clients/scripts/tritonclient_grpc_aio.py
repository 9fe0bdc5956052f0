"""The client of Triton for gRPC with asyncio, `tritonclient.grpc.aio`."""

import asyncio
from typing import Any

from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient

from tests.clients.scripts.calls import Call, answer
from tests.clients.scripts.triton import input_of
from tests.clients.scripts.tritonclient_grpc import options_of, value_of


async def infer(call: Call) -> Any:
    """Return the output of a model."""
    async with InferenceServerClient(call["rpc_address"]) as client:
        return value_of(call, await client.infer(call["model"], [input_of(call, InferInput)], **options_of(call)))


if __name__ == "__main__":
    answer(lambda call: asyncio.run(infer(call)))
