"""The client of KServe for gRPC, `kserve.InferenceGRPCClient`."""

import asyncio
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

from tests.clients.scripts.calls import Call, answer, image_of

# The parameters of a request by action.
PARAMETERS = {"raw": {}, "typed": {}, "timeout": {"timeout": 1}}  # in microseconds


async def ask(call: Call) -> Any:
    """Return what the method of the client that the action names returns."""
    action, model = call["action"], call["model"]
    headers = [(name.lower(), value) for name, value in call["headers"].items()]
    async with InferenceGRPCClient(call["rpc_address"]) as client:
        if action in PARAMETERS:
            tensor = typed_input(call) if action == "typed" else raw_input(call)
            request = InferRequest(model, [tensor], parameters=PARAMETERS[action])
            result = await client.infer(request, headers=headers)
            return result.outputs[0].as_numpy().tolist()
        if action == "is_model_ready":
            return await client.is_model_ready(model, headers=headers)
        return await getattr(client, action)(headers=headers)


def raw_input(call: Call) -> InferInput:
    """Return the input `image`: the bytes of a file, in their binary form."""
    tensor = InferInput("image", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[image_of(call)]], np.object_))
    return tensor


def typed_input(call: Call) -> InferInput:
    """Return the input `image`: the bytes of a file, in the field of their datatype."""
    return InferInput("image", [1, 1], "BYTES", data=[image_of(call)])


if __name__ == "__main__":
    answer(lambda call: asyncio.run(ask(call)))
