"""The client of Triton for REST with asyncio, `tritonclient.http.aio`."""

import asyncio
from typing import Any

from tritonclient.http import InferInput
from tritonclient.http.aio import InferenceServerClient

from tests.clients.scripts.calls import Call, answer
from tests.clients.scripts.triton import input_of
from tests.clients.scripts.tritonclient_http import options_of, value_of


async def infer(call: Call) -> Any:
    """Return the output of a model."""
    async with InferenceServerClient(call["url"].removeprefix("http://")) as client:
        result = await client.infer(
            call["model"], [input_of(call, InferInput)], headers=call["headers"], **options_of(call)
        )
        return value_of(call, result)


if __name__ == "__main__":
    answer(lambda call: asyncio.run(infer(call)))
